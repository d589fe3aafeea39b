/* In: layers and layouts. Out: nothing, or a refusal that names layer, part, dimension and what would fit.
 * Invariant: what passes here can be cut without a block or a head lying on two ranks. */
#include <stdio.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "kernels/arrange.h"
#include "src/model/stored.h"
#include "src/plan/plan.h"

/* What a layer becomes. */
typedef struct choice {
    const weft_scheme_t *scheme;
    weft_arrange_t arrange;
} choice_t;

/* Columns of a rank that marlin's kernels take of experts; other layers are padded. */
#define MARLIN_COLS 64u

/* Marlin's tiles: parts of a layer begin with one, and the last, unless of experts, may end anywhere. A
 * block, too. */
static void cut_tiles(weft_cut_t *cut, bool experts, bool last)
{
    const bool blocks = cut->rows > 1;
    const uint32_t cols = experts ? MARLIN_COLS : WEFT_MARLIN_COLS;
    cut->whole_cols |= !blocks || experts;
    cut->cols = cut->cols < cols ? cols : cut->cols;
    if (!blocks && (experts || !last))
        cut->rows = WEFT_MARLIN_ROWS, cut->whole_rows = true;
}

/* A format's scales say where it may be cut; one that spans a whole row or tensor, anywhere. */
static weft_cut_t cut_of(choice_t choice, bool experts, bool last)
{
    const weft_format_t *format = weft_kernel_format(choice.scheme->kernel);
    bool scaled = format->scale_rows != 0;
    weft_cut_t cut = {
        .rows = scaled && format->scale_rows != WEFT_WHOLE ? format->scale_rows : 1,
        .cols = scaled && format->scale_cols != WEFT_WHOLE ? format->scale_cols : 1,
        .whole_cols = format->whole_groups,
    };
    if (choice.arrange == WEFT_ARRANGE_MARLIN)
        cut_tiles(&cut, experts, last);
    return cut;
}

/* What a layer becomes that is quantized, or may not be, whatever is chosen. */
static choice_t choice_of(const weft_layer_t *layer, choice_t choice)
{
    choice_t kept = {.scheme = weft_scheme_cast()};
    if (layer->stored && !layer->number)
        weft_scheme_find(layer->stored->scheme, &kept.scheme, NULL);
    return !layer->stored && layer->quantize ? choice : kept;
}

/* What a rank's matrix must be besides: of experts whole tiles, and twice one of the two. */
static bool marlin_misfit(const weft_layer_t *layer, uint32_t tp, bool whole, char reason[256])
{
    unsigned long long rows = 0, cols = 0;
    for (uint32_t part = 0; part < layer->num_parts; part++) {
        weft_need_t need = weft_rollout_need(&layer->parts[part], tp, 0, whole);
        rows += need.rows;
        cols = need.cols;
    }
    if (cols % WEFT_MARLIN_COLS)
        snprintf(reason, 256, "a rank's %llu columns are no multiple of %u", cols, WEFT_MARLIN_COLS);
    else if (layer->num_experts && rows % WEFT_MARLIN_ROWS)
        snprintf(reason, 256, "a rank's %llu rows are no whole number of tiles of %u", rows,
                 WEFT_MARLIN_ROWS);
    else if (layer->num_experts && rows % (2 * WEFT_MARLIN_ROWS) && cols % (2 * MARLIN_COLS))
        snprintf(reason, 256,
                 "a rank's %llu rows x %llu columns are neither a multiple of 128 rows nor of 128 columns",
                 rows, cols);
    else
        return false;
    return true;
}

static bool layer_misfit(const weft_layer_t *layer, choice_t choice, uint32_t tp, bool ep, uint32_t *part,
                         char reason[256])
{
    bool whole = ep && layer->num_experts > 0;
    choice = choice_of(layer, choice);
    for (*part = 0; *part < layer->num_parts; ++*part) {
        const bool last = *part + 1 == layer->num_parts;
        const weft_cut_t cut = cut_of(choice, layer->num_experts > 0, last);
        if (weft_rollout_misfit(&layer->parts[*part], tp, whole, cut, last, reason))
            return true;
    }
    *part = 0;
    if (choice.arrange == WEFT_ARRANGE_MARLIN && marlin_misfit(layer, tp, whole, reason))
        return true;
    if (whole && layer->num_experts < tp) {
        snprintf(reason, 256, "%u experts are fewer than %u ranks", layer->num_experts, tp);
        return true;
    }
    return false;
}

/* Whether all layers fit, were those of scheme `instead_of` of `scheme`, plain; both NULL: as they are. */
static bool layout_fits(const weft_plan_t *plan, const weft_scheme_t *instead_of, const weft_scheme_t *scheme,
                        uint32_t tp, bool ep)
{
    char reason[256];
    uint32_t part;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_scheme_entry_t *its = weft_plan_entry(plan, i);
        choice_t choice = {its->scheme, its->arrange};
        if (its->scheme == instead_of)
            choice = (choice_t){.scheme = scheme};
        if (layer_misfit(&plan->layers->items[i], choice, tp, ep, &part, reason))
            return false;
    }
    return true;
}

static bool has_experts(const weft_layers_t *layers)
{
    for (uint32_t i = 0; i < layers->count; i++)
        if (layers->items[i].num_experts)
            return true;
    return false;
}

/* Add the rollout layouts up to twice the size asked for that these schemes can take. */
static void list_fitting(const weft_plan_t *plan, weft_text_t *text)
{
    uint32_t most = 2 * plan->rollout->tp < 16 ? 16 : 2 * plan->rollout->tp;
    for (uint32_t ep = 0; ep <= has_experts(plan->layers); ep++)
        for (uint32_t tp = 1 + ep; tp <= most; tp++)
            if (layout_fits(plan, NULL, NULL, tp, ep))
                weft_text_add(text, "%stp:%u%s", text->length ? ", " : "", tp, ep ? ",ep" : "");
}

static weft_status_t refuse_rollout(const weft_plan_t *plan, uint32_t index, uint32_t part,
                                    const char *reason, weft_error_t *error)
{
    const weft_layer_t *layer = &plan->layers->items[index];
    const weft_scheme_entry_t *entry = weft_plan_entry(plan, index);
    const weft_scheme_t *its = entry->scheme, *other;
    char plain_reason[256];
    uint32_t plain_part;
    bool arranged = entry->arrange != WEFT_ARRANGE_PLAIN;
    bool plain_fits = !layer_misfit(layer, (choice_t){.scheme = its}, plan->rollout->tp, plan->rollout->ep,
                                    &plain_part, plain_reason);
    bool mixed = plan->map.count > 1;
    weft_text_t fitting = {0};
    list_fitting(plan, &fitting);
    bool channel_fits = !plan->layers->stored && its->amax == WEFT_AMAX_NONE &&
                        weft_scheme_find("fp8-channel", &other, NULL) == WEFT_OK &&
                        layout_fits(plan, its, other, plan->rollout->tp, plan->rollout->ep);
    weft_fail(error, WEFT_ERR_MISFIT,
              "rollout %s with %s%s%s does not fit: layer %s, part %s: %s. With %s these fit: %s%s%s%s%s",
              plan->rollout->text, its->name, arranged ? "@" : "",
              arranged ? weft_arrange_name(entry->arrange) : "", layer->name, layer->parts[part].role, reason,
              mixed || arranged ? "this scheme map" : its->name, fitting.length ? fitting.data : "none",
              channel_fits ? "; or keep the layout and use fp8-channel" : "",
              channel_fits && mixed ? " instead of " : "", channel_fits && mixed ? its->name : "",
              plain_fits ? "; or give the layer its scheme without @ in the map" : "");
    weft_text_free(&fitting);
    return WEFT_ERR_MISFIT;
}

static weft_status_t check_trainer(const weft_plan_t *plan, const weft_layer_t *layer, weft_error_t *error)
{
    char reason[256];
    for (uint32_t part = 0; part < layer->num_parts; part++)
        if (weft_trainer_misfit(plan->trainer, &layer->parts[part], reason))
            return weft_fail(
                error, WEFT_ERR_MISFIT,
                "trainer %s does not fit: layer %s, part %s: %s; choose a tp that divides it, or fsdp:N, "
                "which cuts anywhere",
                plan->trainer->text, layer->name, layer->parts[part].role, reason);
    return WEFT_OK;
}

/* What ep deals out must be there, and enough of it. */
static weft_status_t check_experts(const weft_plan_t *plan, weft_error_t *error)
{
    uint32_t wanted = plan->trainer->size[WEFT_AXIS_EP], least = 0;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        uint32_t experts = plan->layers->items[i].num_experts;
        least = experts && (!least || experts < least) ? experts : least;
    }
    if (wanted == 1 || wanted <= least)
        return WEFT_OK;
    return least ? weft_fail(error, WEFT_ERR_MISFIT,
                             "trainer %s does not fit: %u experts are fewer than ep:%u; choose ep:%u or less",
                             plan->trainer->text, least, wanted, least)
                 : weft_fail(error, WEFT_ERR_MISFIT,
                             "trainer %s does not fit: the model has no experts for ep; its copies are dp",
                             plan->trainer->text);
}

weft_status_t weft_plan_check_fit(const weft_plan_t *plan, weft_error_t *error)
{
    char reason[256];
    WEFT_TRY(check_experts(plan, error));
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        uint32_t part;
        const weft_scheme_entry_t *its = weft_plan_entry(plan, i);
        const choice_t choice = {its->scheme, its->arrange};
        if (layer_misfit(layer, choice, plan->rollout->tp, plan->rollout->ep, &part, reason))
            return refuse_rollout(plan, i, part, reason, error);
        WEFT_TRY(check_trainer(plan, layer, error));
    }
    return WEFT_OK;
}
