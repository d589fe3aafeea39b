/* weft: live weight sync from trainers to rollout engines. This header includes all others. */
#ifndef WEFT_H
#define WEFT_H

#include <weft/model.h>
#include <weft/plan.h>
#include <weft/rollout.h>
#include <weft/service.h>
#include <weft/session.h>
#include <weft/status.h>
#include <weft/trainer.h>
#include <weft/transport.h>
#include <weft/types.h>

#endif
