/* In: a plan. Out: a page for a person, or JSON. */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/arrange.h"
#include "src/base/error.h"
#include "src/base/text.h"
#include "src/plan/predict.h"

#define COMMUNICATOR_BYTES (8u << 20) /* what a communicator takes on a rank, about; backends differ */

typedef struct page {
    const weft_plan_t *plan;
    weft_plan_summary_t summary;
    weft_plan_speeds_t speeds;
    weft_prediction_t time;
} page_t;

static double wire_factor(const weft_plan_summary_t *s)
{
    return s->needed_bytes_total ? 1.0 * (double)s->egress_bytes_total / (double)s->unique_bytes_total : 1;
}

/* " (pow2)", " (pow2, deepgemm)", " (128x4)"; nothing where both are what they are without a word. */
static const char *profile_text(weft_profile_t profile, weft_arrange_t arrange, char text[32])
{
    const char *name = profile == WEFT_PROFILE_DEFAULT ? "" : weft_profile_name(profile);
    const char *lie = arrange == WEFT_ARRANGE_PLAIN ? "" : weft_arrange_name(arrange);
    *text = 0;
    if (*name || *lie)
        snprintf(text, 32, " (%s%s%s)", name, *name && *lie ? ", " : "", lie);
    return text;
}

static void print_pattern(weft_text_t *text, const weft_plan_t *plan, const weft_pattern_t *pattern)
{
    const weft_layer_t *layer = pattern->example;
    char shape[64], experts[32] = "", title[WEFT_LAYER_NAME_BYTES], profile[32];
    if (layer->num_experts)
        snprintf(experts, sizeof experts, "%u x ",
                 weft_plan_local_experts(plan, (uint32_t)(layer - plan->layers->items)));
    if (layer->parts[0].vector)
        snprintf(shape, sizeof shape, "%s[%u]", experts, pattern->cols);
    else
        snprintf(shape, sizeof shape, "%s[%u, %u]", experts, pattern->rows, pattern->cols);
    weft_text_add(text, "  %6u  %-52s %-20s %-8s %s%s%s\n", pattern->num_layers,
                  weft_layer_full_name(layer, title), shape, weft_dtype_name(pattern->dtype),
                  layer->keep_f32 && !layer->stored ? "kept" : pattern->scheme->name,
                  plan->map.count > 1 ? profile_text(pattern->profile, pattern->arrange, profile) : "",
                  pattern->amax_ahead ? ", amax ahead" : "");
}

/* Whether the entry makes another thing of it than the recipe and the default do. */
static bool decides(const weft_plan_t *plan, const weft_layer_t *layer, const weft_scheme_entry_t *entry)
{
    return layer->quantize ||
           !weft_scheme_entries_agree(&plan->map, entry, &plan->map, &plan->map.entries[0], layer);
}

/* Layers that the entry decides, and that it could: those never quantized are the recipe's, unless they are
 * cast. */
static uint32_t count_decided(const weft_plan_t *plan, uint32_t entry, const weft_layer_t **first)
{
    uint32_t count = 0;
    *first = NULL;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        const weft_layer_t *layer = &plan->layers->items[i];
        if (plan->layer_entry[i] != entry || !decides(plan, layer, &plan->map.entries[entry]))
            continue;
        *first = count++ ? *first : layer;
    }
    return count;
}

/* A map's entries, and which layers each has got; they lie between the first and the last in forward order.
 */
static void print_schemes(weft_text_t *text, const weft_plan_t *plan)
{
    char profile[32], scheme[64];
    if (plan->map.count == 1)
        return;
    weft_text_add(
        text, "\n  layers  scheme                      of the layers that it can change, those that match\n");
    for (uint32_t i = 0; i < plan->map.count; i++) {
        const weft_scheme_entry_t *entry = &plan->map.entries[i];
        const weft_layer_t *first;
        uint32_t count = count_decided(plan, i, &first);
        snprintf(scheme, sizeof scheme, "%s%s", entry->scheme->name,
                 profile_text(entry->profile, entry->arrange, profile));
        weft_text_add(text, "  %6u  %-26s  %s%s%s%s\n", count, scheme,
                      entry->glob ? entry->glob : "nothing below (the default)", count ? ": " : "",
                      count ? first->name : "", count > 1 ? ", ..." : "");
    }
}

/* What the engine chose, and what was given instead. */
static void print_engine(weft_text_t *text, const weft_plan_t *plan)
{
    if (!plan->engine)
        return;
    const weft_scheme_entry_t *all = &plan->map.entries[0];
    const char *chosen[] = {[WEFT_CHOSEN_BY_SCHEME] = "default",
                            [WEFT_CHOSEN_BY_ENGINE] = "chosen",
                            [WEFT_CHOSEN_BY_OPTION] = "given",
                            [WEFT_CHOSEN_BY_ENTRY] = "given"};
    weft_text_add(text, "\nengine    %s: scheme %s (%s), profile %s (%s), ", plan->engine->name,
                  all->scheme->name, plan->engine_chose_scheme ? "chosen" : "given",
                  weft_profile_name(all->profile), chosen[all->chosen_by]);
    weft_text_add(text, "parameters of experts as experts.%sw13_weight", weft_engine_experts(plan->engine));
}

static void print_head(weft_text_t *text, const page_t *p)
{
    char profile[32];
    const weft_plan_t *plan = p->plan;
    const weft_plan_summary_t *s = &p->summary;
    char a[24];
    weft_text_add(text, "plan      %s: trainer %s (%u ranks) to rollout %s (%u ranks), %s%s",
                  weft_model_type(plan->model), plan->trainer->text, plan->trainer->num_ranks,
                  plan->rollout->text, plan->rollout->num_ranks, plan->map.entries[0].scheme->name,
                  profile_text(plan->map.entries[0].profile, plan->map.entries[0].arrange, profile));
    if (plan->map.count > 1)
        weft_text_add(text, " and a map of %u %s", plan->map.count - 1,
                      plan->map.count > 2 ? "entries" : "entry");
    print_engine(text, plan);
    weft_text_add(text, "\nhash      %016llx%016llx\n", (unsigned long long)plan->hash.word[1],
                  (unsigned long long)plan->hash.word[0]);
    weft_text_add(
        text, "model     %u tensors, %s, as %u layers of %u patterns; every element proven to arrive once\n",
        s->num_tensors, weft_text_bytes((double)s->checkpoint_bytes, a), s->num_layers, s->num_patterns);
    weft_text_add(text, "\n  layers  one of them, as a rollout rank holds it\n");
    for (uint32_t i = 0; i < plan->num_patterns; i++)
        print_pattern(text, plan, &plan->patterns[i]);
    print_schemes(text, plan);
}

static void print_messages(weft_text_t *text, const char *verb, const weft_messages_t *m)
{
    char a[24], b[24], c[24];
    weft_text_add(text, "          busiest is rank %u: %s %llu buckets of %s to %s, median %s\n", m->rank,
                  verb, (unsigned long long)m->count, weft_text_bytes((double)m->min_bytes, a),
                  weft_text_bytes((double)m->max_bytes, b), weft_text_bytes((double)m->median_bytes, c));
}

static void print_ranks(weft_text_t *text, const page_t *p)
{
    const weft_plan_summary_t *s = &p->summary;
    char a[24], b[24], c[24], d[24];
    weft_text_add(text, "\ntrainer   sends %s to %s a rank, %s in all; one replica needs %s (%.4f)\n",
                  weft_text_bytes((double)s->egress_bytes_min, a),
                  weft_text_bytes((double)s->egress_bytes_max, b),
                  weft_text_bytes((double)s->egress_bytes_total, c),
                  weft_text_bytes((double)s->unique_bytes_total, d), wire_factor(s));
    print_messages(text, "sends", &p->time.trainer);
    weft_text_add(text, "rollout   receives at most %s a rank, %s in all\n",
                  weft_text_bytes((double)s->ingress_bytes_max, a),
                  weft_text_bytes((double)s->needed_bytes_total, b));
    print_messages(text, "receives", &p->time.rollout);
    weft_text_add(text, "staging   %s in %u rounds (least budget %s), %s of it tables of amax\n",
                  weft_text_bytes((double)s->staging_bytes, a), s->num_rounds,
                  weft_text_bytes((double)s->least_budget_bytes, b),
                  weft_text_bytes((double)(s->staging_bytes - 2 * p->plan->round_bytes), c));
    weft_text_add(text, "routes    %u, %s; %u destination sets\n", s->num_routes,
                  s->relay ? "by relay (one rank of a set receives, then broadcasts)" : "each a broadcast",
                  s->num_sets);
    weft_text_add(text, "          at most %u communicators a rank, %s if one takes 8 MiB\n", s->groups_max,
                  weft_text_bytes((double)s->groups_max * COMMUNICATOR_BYTES, a));
    weft_text_add(text,
                  "swap      flip or copy: %s live and as much staged a rank; copy pauses %.1f ms for it; "
                  "layerwise: no stage, paused "
                  "throughout\n",
                  weft_text_bytes((double)s->kernel_bytes_max, a), p->time.copy_ms);
}

static void print_time(weft_text_t *text, const page_t *p)
{
    const weft_prediction_t *t = &p->time;
    weft_text_add(text, "time      %.1f ms, limited by %s: ", t->update_ms, weft_stage_name(t->limit));
    for (unsigned i = 0; i < WEFT_STAGE_COUNT; i++)
        weft_text_add(text, "%s %.1f%s", weft_stage_name(i), t->stage_ms[i],
                      i + 1 < WEFT_STAGE_COUNT ? ", " : "");
    weft_text_add(text, "; first round %.1f\n          at %.4g GB/s a link, %.4g in a node, memory %.4g; ",
                  t->first_round_ms, p->speeds.link_bytes_per_s / 1e9, p->speeds.nvlink_bytes_per_s / 1e9,
                  p->speeds.hbm_bytes_per_s / 1e9);
    if (p->speeds.ranks_per_node)
        weft_text_add(text, "%.0f %% of what is sent stays in nodes of %u\n",
                      p->summary.egress_bytes_total
                          ? 100 * (double)t->node_bytes / (double)p->summary.egress_bytes_total
                          : 0,
                      p->speeds.ranks_per_node);
    else
        weft_text_add(text, "all routes over links\n");
}

static void print_page(weft_text_t *text, const page_t *p)
{
    print_head(text, p);
    print_ranks(text, p);
    print_time(text, p);
}

static void print_json_messages(weft_text_t *text, const char *side, const weft_messages_t *m)
{
    weft_text_add(text,
                  "  \"%s_messages\": {\"rank\": %u, \"count\": %llu, \"bytes_min\": %llu, "
                  "\"bytes_median\": %llu, \"bytes_max\": %llu},\n",
                  side, m->rank, (unsigned long long)m->count, (unsigned long long)m->min_bytes,
                  (unsigned long long)m->median_bytes, (unsigned long long)m->max_bytes);
}

static void print_json_time(weft_text_t *text, const page_t *p)
{
    const weft_prediction_t *t = &p->time;
    for (unsigned i = 0; i < WEFT_STAGE_COUNT; i++)
        weft_text_add(text, "  \"%s_ms\": %.3f,\n", weft_stage_name(i), t->stage_ms[i]);
    weft_text_add(text,
                  "  \"first_round_ms\": %.3f,\n  \"copy_pause_ms\": %.3f,\n  \"limit\": \"%s\",\n"
                  "  \"link_bytes_per_s\": %.0f,\n  \"nvlink_bytes_per_s\": %.0f,\n"
                  "  \"hbm_bytes_per_s\": %.0f,\n  \"ranks_per_node\": %u,\n  \"predicted_ms\": %.3f\n}\n",
                  t->first_round_ms, t->copy_ms, weft_stage_name(t->limit), p->speeds.link_bytes_per_s,
                  p->speeds.nvlink_bytes_per_s, p->speeds.hbm_bytes_per_s, p->speeds.ranks_per_node,
                  t->update_ms);
}

static void print_json_layers(weft_text_t *text, const weft_plan_t *plan, uint32_t entry)
{
    bool any = false;
    for (uint32_t i = 0; i < plan->layers->count; i++) {
        if (plan->layer_entry[i] != entry || !plan->layers->items[i].quantize)
            continue;
        weft_text_add(text, "%s", any ? ", " : "");
        weft_text_add_json_string(text, plan->layers->items[i].name);
        any = true;
    }
}

static void print_json_schemes(weft_text_t *text, const weft_plan_t *plan)
{
    weft_text_add(text, "  \"schemes\": [\n");
    for (uint32_t i = 0; i < plan->map.count; i++) {
        const weft_scheme_entry_t *entry = &plan->map.entries[i];
        weft_text_add(text, "    {\"match\": ");
        if (entry->glob)
            weft_text_add_json_string(text, entry->glob);
        else
            weft_text_add(text, "null");
        weft_text_add(
            text, ", \"scheme\": \"%s\", \"profile\": \"%s\", \"arrangement\": \"%s\", \"layers\": [",
            entry->scheme->name, weft_profile_name(entry->profile), weft_arrange_name(entry->arrange));
        print_json_layers(text, plan, i);
        weft_text_add(text, "]}%s\n", i + 1 < plan->map.count ? "," : "");
    }
    weft_text_add(text, "  ],\n");
}

static void print_json(weft_text_t *text, const page_t *p)
{
    const weft_plan_t *plan = p->plan;
    const weft_plan_summary_t *s = &p->summary;
    weft_text_add(text, "{\n  \"model_type\": ");
    weft_text_add_json_string(text, weft_model_type(plan->model));
    weft_text_add(text, ",\n  \"trainer\": \"%s\", \"rollout\": \"%s\", \"scheme\": ", plan->trainer->text,
                  plan->rollout->text);
    weft_text_add_json_string(text, plan->map.text);
    weft_text_add(text, ", \"profile\": \"%s\",\n", weft_plan_profile(plan));
    weft_text_add(text, "  \"engine\": %s%s%s, \"experts_prefix\": \"%s\",\n", plan->engine ? "\"" : "",
                  plan->engine ? plan->engine->name : "null", plan->engine ? "\"" : "",
                  weft_engine_experts(plan->engine));
    print_json_schemes(text, plan);
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
        {"communicator_bytes", (uint64_t)s->groups_max * COMMUNICATOR_BYTES},
        {"amax_bytes", s->staging_bytes - 2 * plan->round_bytes},
        {"node_bytes", p->time.node_bytes},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        weft_text_add(text, "  \"%s\": %llu,\n", fields[i].name, (unsigned long long)fields[i].value);
    weft_text_add(text, "  \"relay\": %s,\n", s->relay ? "true" : "false");
    print_json_messages(text, "trainer", &p->time.trainer);
    print_json_messages(text, "rollout", &p->time.rollout);
    print_json_time(text, p);
}

/* Fill in defaults; false when a speed is none. */
static bool take_speeds(const weft_plan_speeds_t *given, weft_plan_speeds_t *speeds)
{
    *speeds = given ? *given : WEFT_PLAN_SPEEDS;
    double *const values[] = {&speeds->link_bytes_per_s, &speeds->nvlink_bytes_per_s,
                              &speeds->hbm_bytes_per_s};
    const double defaults[] = {50e9, 450e9, 4e12};
    for (unsigned i = 0; i < 3; i++) {
        if (!(*values[i] >= 0 && *values[i] < 1e18))
            return false;
        *values[i] = *values[i] > 0 ? *values[i] : defaults[i];
    }
    return speeds->struct_size == sizeof *speeds;
}

weft_status_t weft_plan_print(const weft_plan_t *plan, bool json, const weft_plan_speeds_t *speeds,
                              char **text)
{
    page_t page = {.plan = plan};
    weft_text_t out = {0};
    if (!take_speeds(speeds, &page.speeds))
        return WEFT_ERR_ARGUMENT;
    weft_plan_summarize(plan, &page.summary);
    WEFT_TRY(weft_plan_predict(plan, &page.summary, &page.speeds, &page.time));
    (json ? print_json : print_page)(&out, &page);
    if (out.failed) {
        weft_text_free(&out);
        return WEFT_ERR_NO_MEMORY;
    }
    *text = out.data;
    return WEFT_OK;
}
