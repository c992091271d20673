#include "bench/serve/report.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace fulgur::bench::serve {
namespace {

using nlohmann::json;

double ms(Nanoseconds time) { return static_cast<double>(time) / kMillisecond; }

double per_second(std::uint64_t count, Nanoseconds time) {
  return time > 0 ? static_cast<double>(count) * 1e9 / static_cast<double>(time) : 0;
}

struct Samples {
  std::vector<Nanoseconds> ttft, inter_token, per_output_token, end_to_end, send_lag;

  void add(const Outcome& outcome) {
    ttft.push_back(outcome.first_token - outcome.scheduled);
    inter_token.insert(inter_token.end(), outcome.gaps.begin(), outcome.gaps.end());
    if (outcome.output_tokens > 1)
      per_output_token.push_back((outcome.last_token - outcome.first_token) /
                                 static_cast<Nanoseconds>(outcome.output_tokens - 1));
    end_to_end.push_back(outcome.finished - outcome.scheduled);
  }
};

std::string row(const char* name, const Latency& latency) {
  return fmt::format("{:<18} {:>10.2f} {:>10.2f} {:>10.2f} {:>10.2f} {:>9}\n", name,
                     ms(latency.p50), ms(latency.p90), ms(latency.p99), ms(latency.max),
                     latency.samples);
}

json latency_json(const Latency& latency) {
  return {{"p50_ms", ms(latency.p50)},
          {"p90_ms", ms(latency.p90)},
          {"p99_ms", ms(latency.p99)},
          {"max_ms", ms(latency.max)},
          {"samples", latency.samples}};
}

json lengths_json(const Lengths& lengths) { return json::array({lengths.least, lengths.most}); }

}  // namespace

Summary summarize(const LoadResult& result, bool open_loop) {
  Summary summary;
  Samples samples;
  Nanoseconds last_scheduled = 0;
  Nanoseconds last_sent = 0;
  std::uint64_t sent = 0;
  for (const Outcome& outcome : result.outcomes) {
    last_scheduled = std::max(last_scheduled, outcome.scheduled);
    if (outcome.sent >= 0) {
      ++sent;
      last_sent = std::max(last_sent, outcome.sent);
      samples.send_lag.push_back(outcome.sent - outcome.scheduled);
    }
    if (!outcome.error.empty()) {
      ++summary.errors[outcome.error];
      summary.error_example.try_emplace(outcome.error, outcome.detail);
      continue;
    }
    ++summary.succeeded;
    summary.prompt_tokens += outcome.prompt_tokens;
    summary.output_tokens += outcome.output_tokens;
    samples.add(outcome);
  }
  summary.requests = result.outcomes.size();
  summary.elapsed_s = static_cast<double>(result.elapsed) / kSecond;
  summary.scheduled_rate = open_loop ? per_second(summary.requests, last_scheduled) : 0;
  summary.sent_rate = open_loop ? per_second(sent, last_sent) : 0;
  summary.requests_per_s = per_second(summary.succeeded, result.elapsed);
  summary.output_tokens_per_s = per_second(summary.output_tokens, result.elapsed);
  summary.in_flight_max = result.in_flight_max;
  summary.ttft = summarize(std::move(samples.ttft));
  summary.inter_token = summarize(std::move(samples.inter_token));
  summary.per_output_token = summarize(std::move(samples.per_output_token));
  summary.end_to_end = summarize(std::move(samples.end_to_end));
  summary.send_lag = summarize(std::move(samples.send_lag));
  return summary;
}

std::string to_table(const Summary& summary) {
  std::string text = fmt::format("{:<18} {:>10} {:>10} {:>10} {:>10} {:>9}\n", "milliseconds",
                                 "p50", "p90", "p99", "max", "samples");
  text += row("first token", summary.ttft);
  text += row("inter-token", summary.inter_token);
  text += row("per output token", summary.per_output_token);
  text += row("end to end", summary.end_to_end);
  text += row("send lag", summary.send_lag);
  text += fmt::format("{:.1f} output tokens/s, {:.2f} requests/s, {} of {} requests in {:.2f} s, "
                      "at most {} in flight\n", summary.output_tokens_per_s,
                      summary.requests_per_s, summary.succeeded, summary.requests,
                      summary.elapsed_s, summary.in_flight_max);
  if (summary.scheduled_rate > 0)
    text += fmt::format("rate: {:.2f}/s scheduled, {:.2f}/s sent\n", summary.scheduled_rate,
                        summary.sent_rate);
  if (summary.errors.empty()) return text + "no errors\n";
  for (const auto& [kind, count] : summary.errors)
    text += fmt::format("error {}: {} (first: {})\n", kind, count, summary.error_example.at(kind));
  return text;
}

std::string to_json(const Summary& summary, const Workload& workload) {
  const json out = {{"model", workload.model},
                    {"seed", workload.seed},
                    {"prompt_tokens_range", lengths_json(workload.prompt)},
                    {"output_tokens_range", lengths_json(workload.output)},
                    {"requests", summary.requests},
                    {"succeeded", summary.succeeded},
                    {"elapsed_s", summary.elapsed_s},
                    {"prompt_tokens", summary.prompt_tokens},
                    {"output_tokens", summary.output_tokens},
                    {"output_tokens_per_s", summary.output_tokens_per_s},
                    {"requests_per_s", summary.requests_per_s},
                    {"scheduled_rate", summary.scheduled_rate},
                    {"sent_rate", summary.sent_rate},
                    {"in_flight_max", summary.in_flight_max},
                    {"errors", summary.errors},
                    {"error_example", summary.error_example},
                    {"ttft", latency_json(summary.ttft)},
                    {"inter_token", latency_json(summary.inter_token)},
                    {"per_output_token", latency_json(summary.per_output_token)},
                    {"end_to_end", latency_json(summary.end_to_end)},
                    {"send_lag", latency_json(summary.send_lag)}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace fulgur::bench::serve
