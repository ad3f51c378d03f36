package metrics

import (
	"strings"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"drover/coordinator"
	"drover/internal/measure"
)

// outcome is a code as a label: ok, resource_exhausted.
func outcome(code codes.Code) string {
	var b strings.Builder
	for i, r := range code.String() {
		if unicode.IsUpper(r) && i > 0 && code != codes.OK {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// Engine tells of a coordinator's engine. Times of requests are named as OpenTelemetry's
// conventions for generative models name them.
func Engine(model string, read func() coordinator.Metrics) prometheus.Collector {
	gen := []string{"gen_ai_operation_name", "gen_ai_request_model"}
	requests := counter("drover_requests_total", "Requests that ended, by how.", "operation",
		"outcome")
	duration := histogram("gen_ai_server_request_duration_seconds",
		"Time from a request's arrival to its end.", append(gen, "error_type")...)
	first := histogram("gen_ai_server_time_to_first_token_seconds",
		"Time from a request's arrival to its first token, of complete answers.", gen...)
	each := histogram("gen_ai_server_time_per_output_token_seconds",
		"Time for each token after the first, of complete answers.", gen...)
	usage := histogram("gen_ai_client_token_usage", "Tokens of complete answers.",
		append(gen, "gen_ai_token_type")...)
	rest := engineRest()
	return collect(func(ch chan<- prometheus.Metric) {
		m := read()
		for _, r := range m.Requests {
			how, failure := outcome(r.Code), ""
			if r.Code != codes.OK {
				failure = how
			}
			requests.put(ch, float64(r.Time.Count), r.Operation.String(), how)
			duration.counts(ch, r.Time, r.Operation.String(), model, failure)
		}
		for i, o := range []coordinator.Operation{coordinator.OperationChat,
			coordinator.OperationCompletion} {
			first.counts(ch, m.FirstToken[i], o.String(), model)
			each.counts(ch, m.PerToken[i], o.String(), model)
			usage.counts(ch, m.Input[i], o.String(), model, "input")
			usage.counts(ch, m.Output[i], o.String(), model, "output")
		}
		rest(ch, &m)
	})
}

// single is a metric without labels.
type single[M any] struct {
	family
	value func(*M) float64
	times func(*M) measure.Counts // in place of value
}

func (s *single[M]) tell(ch chan<- prometheus.Metric, m *M) {
	if s.times != nil {
		s.counts(ch, s.times(m))
		return
	}
	s.put(ch, s.value(m))
}

// engineRest are the metrics that are one number or one histogram each.
func engineRest() func(chan<- prometheus.Metric, *coordinator.Metrics) {
	type metrics = coordinator.Metrics
	var all []single[metrics]
	count := func(name, help string, f func(*metrics) float64) {
		all = append(all, single[metrics]{counter(name, help), f, nil})
	}
	now := func(name, help string, f func(*metrics) float64) {
		all = append(all, single[metrics]{gauge(name, help), f, nil})
	}
	times := func(name, help string, f func(*metrics) measure.Counts) {
		all = append(all, single[metrics]{histogram(name, help), nil, f})
	}
	times("drover_inter_token_latency_seconds", "Time between two tokens of an answer.",
		func(m *metrics) measure.Counts { return m.Gap })
	times("drover_queue_wait_seconds", "Time that requests waited for their first step.",
		func(m *metrics) measure.Counts { return m.Wait })
	times("drover_step_duration_seconds", "Time of the engine's steps that went well.",
		func(m *metrics) measure.Counts { return m.StepTime })
	times("drover_batch_sequences", "Sequences of a step.",
		func(m *metrics) measure.Counts { return m.BatchSequences })
	times("drover_batch_tokens", "Tokens of a step, of prompts and answers.",
		func(m *metrics) measure.Counts { return m.BatchTokens })
	count("drover_steps_failed_total", "Steps of the engine that ended with an error.",
		func(m *metrics) float64 { return float64(m.FailedSteps) })
	count("drover_prefill_tokens_total", "Tokens of prompts that were computed.",
		func(m *metrics) float64 { return float64(m.PrefillTokens) })
	count("drover_decode_tokens_total", "Tokens of answers that were computed.",
		func(m *metrics) float64 { return float64(m.DecodeTokens) })
	count("drover_resumed_requests_total", "Complete answers that began at another coordinator.",
		func(m *metrics) float64 { return float64(m.Resumed) })
	count("drover_preemptions_total", "Sequences that lost their KV blocks to older ones.",
		func(m *metrics) float64 { return float64(m.Preemptions) })
	count("drover_idle_seconds_total", "Time in which the engine had nothing to compute.",
		func(m *metrics) float64 { return m.IdleTime.Seconds() })
	count("drover_canaries_total", "Tokens sent through the model to prove readiness.",
		func(m *metrics) float64 { return float64(m.Canaries) })
	count("drover_canaries_failed_total", "Such tokens that did not come through.",
		func(m *metrics) float64 { return float64(m.FailedCanaries) })
	now("drover_requests_running", "Sequences that run.",
		func(m *metrics) float64 { return float64(m.Running) })
	now("drover_requests_waiting", "Sequences that wait: the queue's length.",
		func(m *metrics) float64 { return float64(m.Waiting) })
	now("drover_kv_blocks_used", "KV blocks in use.",
		func(m *metrics) float64 { return float64(m.BlocksUsed) })
	now("drover_kv_blocks", "KV blocks in use and free.",
		func(m *metrics) float64 { return float64(m.Blocks) })
	now("drover_micro_batches", "Micro-batches of the last step.",
		func(m *metrics) float64 { return float64(m.MicroBatches) })
	now("drover_micro_batches_hiding", "Micro-batches that would hide the network.",
		func(m *metrics) float64 { return float64(m.HidingMicroBatches) })
	return func(ch chan<- prometheus.Metric, m *metrics) {
		for i := range all {
			all[i].tell(ch, m)
		}
	}
}
