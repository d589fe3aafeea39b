/* In: a plan. Out: a page for a person, or JSON. */
#include <stdio.h>
#include <stdlib.h>

#include "src/base/error.h"
#include "src/base/text.h"
#include "src/plan/plan.h"

#define DEFAULT_LINK       50e9
#define COMMUNICATOR_BYTES (8u << 20) /* what a communicator takes on a rank, about; backends differ */

static double predicted_ms(const weft_plan_summary_t *s, double link)
{
    uint64_t most = s->ingress_bytes_max > s->egress_bytes_max ? s->ingress_bytes_max : s->egress_bytes_max;
    return (double)most / link * 1e3;
}

static void print_pattern(weft_text_t *text, const weft_plan_t *plan, const weft_pattern_t *pattern)
{
    const weft_layer_t *layer = pattern->example;
    char shape[64], title[160];
    if (layer->num_experts)
        snprintf(shape, sizeof shape, "%u x [%u, %u]",
                 weft_plan_local_experts(plan, (uint32_t)(layer - plan->layers->items)), pattern->rows,
                 pattern->cols);
    else if (layer->parts[0].vector)
        snprintf(shape, sizeof shape, "[%u]", pattern->cols);
    else
        snprintf(shape, sizeof shape, "[%u, %u]", pattern->rows, pattern->cols);
    snprintf(title, sizeof title, "%s%c%s", layer->name, layer->joint, layer->leaf);
    weft_text_add(text, "  %6u  %-52s %-20s %-8s %s%s\n", pattern->num_layers, title, shape,
                  weft_dtype_name(pattern->dtype), pattern->scheme->name,
                  pattern->amax_ahead ? ", amax ahead" : "");
}

static void print_page(weft_text_t *text, const weft_plan_t *plan, const weft_plan_summary_t *s, double link)
{
    char a[24], b[24], c[24];
    weft_text_add(text, "plan      %s: trainer %s (%u ranks) to rollout %s (%u ranks), %s",
                  weft_model_type(plan->model), plan->trainer->text, plan->trainer->num_ranks,
                  plan->rollout->text, plan->rollout->num_ranks, plan->scheme->name);
    if (plan->profile != WEFT_PROFILE_DEFAULT)
        weft_text_add(text, " (%s)", weft_profile_name(plan->profile));
    weft_text_add(text, "\nhash      %016llx%016llx\n", (unsigned long long)plan->hash.word[1],
                  (unsigned long long)plan->hash.word[0]);
    weft_text_add(
        text, "model     %u tensors, %s, as %u layers of %u patterns; every element proven to arrive once\n",
        s->num_tensors, weft_text_bytes((double)s->checkpoint_bytes, a), s->num_layers, s->num_patterns);
    weft_text_add(text, "\n  layers  one of them, as a rollout rank holds it\n");
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        print_pattern(text, plan, &plan->patterns[i]);
    weft_text_add(text,
                  "\nrollout   receives at most %s a rank, holds %s of kernel-format weights and as much "
                  "again staged\n",
                  weft_text_bytes((double)s->ingress_bytes_max, a),
                  weft_text_bytes((double)s->kernel_bytes_max, b));
    weft_text_add(text, "trainer   sends %s to %s a rank, %s in all; one replica needs %s\n",
                  weft_text_bytes((double)s->egress_bytes_min, a),
                  weft_text_bytes((double)s->egress_bytes_max, b),
                  weft_text_bytes((double)s->egress_bytes_total, c),
                  weft_text_bytes((double)s->unique_bytes_total, (char[24]){0}));
    weft_text_add(text, "staging   %s in %u rounds (least %s)\n",
                  weft_text_bytes((double)s->staging_bytes, a), s->num_rounds,
                  weft_text_bytes((double)s->least_budget_bytes, b));
    weft_text_add(text, "routes    %u, %s; %u destination sets; at most %u communicators a rank, about %s\n",
                  s->num_routes,
                  s->relay ? "by relay (one rank of a set receives, then broadcasts)" : "each a broadcast",
                  s->num_sets, s->groups_max, weft_text_bytes((double)s->groups_max * COMMUNICATOR_BYTES, a));
    weft_text_add(text, "time      %.1f ms at %.3g GB/s a link: the busiest rank's bytes over its link\n",
                  predicted_ms(s, link), link / 1e9);
}

static void print_json(weft_text_t *text, const weft_plan_t *plan, const weft_plan_summary_t *s, double link)
{
    weft_text_add(text, "{\n  \"model_type\": ");
    weft_text_add_json_string(text, weft_model_type(plan->model));
    weft_text_add(
        text, ",\n  \"trainer\": \"%s\", \"rollout\": \"%s\", \"scheme\": \"%s\", \"profile\": \"%s\",\n",
        plan->trainer->text, plan->rollout->text, plan->scheme->name, weft_profile_name(plan->profile));
    weft_text_add(text, "  \"hash\": \"%016llx%016llx\",\n", (unsigned long long)plan->hash.word[1],
                  (unsigned long long)plan->hash.word[0]);
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"trainer_ranks", plan->trainer->num_ranks},
        {"rollout_ranks", plan->rollout->num_ranks},
        {"tensors", s->num_tensors},
        {"layers", s->num_layers},
        {"patterns", s->num_patterns},
        {"rounds", s->num_rounds},
        {"checkpoint_bytes", s->checkpoint_bytes},
        {"needed_bytes_total", s->needed_bytes_total},
        {"egress_bytes_total", s->egress_bytes_total},
        {"unique_bytes_total", s->unique_bytes_total},
        {"ingress_bytes_max", s->ingress_bytes_max},
        {"egress_bytes_min", s->egress_bytes_min},
        {"egress_bytes_max", s->egress_bytes_max},
        {"kernel_bytes_max", s->kernel_bytes_max},
        {"staging_bytes", s->staging_bytes},
        {"least_budget_bytes", s->least_budget_bytes},
        {"routes", s->num_routes},
        {"sets", s->num_sets},
        {"communicators_max", s->groups_max},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        weft_text_add(text, "  \"%s\": %llu,\n", fields[i].name, (unsigned long long)fields[i].value);
    weft_text_add(text, "  \"relay\": %s,\n  \"link_bytes_per_s\": %.0f,\n  \"predicted_ms\": %.3f\n}\n",
                  s->relay ? "true" : "false", link, predicted_ms(s, link));
}

weft_status_t weft_plan_print(const weft_plan_t *plan, bool json, double link_bytes_per_s, char **text)
{
    weft_plan_summary_t summary;
    weft_text_t out = {0};
    double link = link_bytes_per_s > 0 ? link_bytes_per_s : DEFAULT_LINK;
    weft_plan_summarize(plan, &summary);
    (json ? print_json : print_page)(&out, plan, &summary, link);
    if (out.failed) {
        weft_text_free(&out);
        return WEFT_ERR_NO_MEMORY;
    }
    *text = out.data;
    return WEFT_OK;
}
