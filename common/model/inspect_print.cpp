// Inspection reports as text and as JSON.
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/model/file.hpp"
#include "common/model/inspect.hpp"

namespace fulgur::model {
namespace {

std::string billions(std::uint64_t params) {
  const auto value = static_cast<double>(params);
  return value >= 1e9 ? fmt::format("{:.2f} B", value / 1e9) : fmt::format("{:.2f} M", value / 1e6);
}

std::string gigabytes(std::uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return value >= 1e9 ? fmt::format("{:.2f} GB", value / 1e9)
                      : fmt::format("{:.2f} MB", value / 1e6);
}

std::string kibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
}

void print_problems(std::string& out, std::string_view title,
                    const std::vector<TensorProblem>& problems) {
  if (problems.empty()) return;
  fmt::format_to(std::back_inserter(out), "{} tensors: {}\n", title, problems.size());
  for (const TensorProblem& problem : problems) {
    fmt::format_to(std::back_inserter(out), "  {}{}{} {}\n", printable(problem.file),
                   problem.file.empty() ? "" : ": ", printable(problem.tensor), problem.what);
  }
}

void print_model(std::string& out, const Inspection& report) {
  const ModelConfig& config = report.config;
  const auto to = std::back_inserter(out);
  fmt::format_to(to, "model         {} ({} dialect, {})\n", config.model_type,
                 to_string(config.dialect), report.layout);
  fmt::format_to(to, "layers        {} ({} lightning, {} softmax), hidden {}, vocabulary {}\n",
                 config.layers, config.layers_of(AttentionKind::lightning),
                 config.layers_of(AttentionKind::softmax), config.hidden, config.vocab);
  fmt::format_to(to, "attention     {} heads x {}, {} KV heads, {} rotary dims, theta {:g}\n",
                 config.heads, config.head_dim, config.kv_heads, config.rotary_dim,
                 config.rope_theta);
  fmt::format_to(to, "experts       {} a layer, top-{}, inner size {}\n", config.experts,
                 config.experts_per_token, config.expert_inner);
}

void print_sizes(std::string& out, const Inspection& report) {
  const auto to = std::back_inserter(out);
  for (std::size_t i = 0; i < kPartCount; ++i) {
    const PartSize& part = report.parts[i];
    fmt::format_to(to, "  {:<11} {:>12} {:>12} {:>7} tensors\n", to_string(static_cast<Part>(i)),
                   billions(part.params), gigabytes(part.bytes), part.tensors);
  }
  const PartSize total = report.total();
  fmt::format_to(to, "parameters    {} total, {} active a token (embedding and head excluded)\n",
                 billions(total.params), billions(report.config.active_params()));
  fmt::format_to(to, "weights       {}", gigabytes(total.bytes));
  if (report.verified < report.mapped) out += " (assuming fp32 routers, bf16 elsewhere)";
  if (report.index_total_bytes) {
    const bool same = *report.index_total_bytes == total.bytes;
    fmt::format_to(to, "; the index says {}",
                   same ? "the same" : gigabytes(*report.index_total_bytes));
  }
  fmt::format_to(to, "\nsequence      {:.2f} MiB lightning state (fp32), {} KV a token (bf16)\n",
                 static_cast<double>(report.config.state_bytes_per_sequence()) / (1 << 20),
                 kibibytes(report.config.kv_bytes_per_token()));
}

std::string verdict(const Inspection& report) {
  if (!report.consistent()) return "verdict       damaged: see above\n";
  if (report.shards_absent == 0) return "verdict       complete\n";
  return fmt::format(
      "verdict       names are complete; {} of {} shards are absent, so {} tensors' "
      "shapes were not verified\n",
      report.shards_absent, report.shards, report.mapped - report.verified);
}

nlohmann::ordered_json problems_json(const std::vector<TensorProblem>& problems) {
  auto out = nlohmann::ordered_json::array();
  for (const TensorProblem& problem : problems) {
    out.push_back({{"tensor", problem.tensor}, {"file", problem.file}, {"what", problem.what}});
  }
  return out;
}

nlohmann::ordered_json parts_json(const Inspection& report) {
  nlohmann::ordered_json out;
  for (std::size_t i = 0; i < kPartCount; ++i) {
    const PartSize& part = report.parts[i];
    out[std::string(to_string(static_cast<Part>(i)))] = {
        {"tensors", part.tensors}, {"params", part.params}, {"bytes", part.bytes}};
  }
  return out;
}

nlohmann::ordered_json config_json(const ModelConfig& config) {
  nlohmann::ordered_json out;
  out["model_type"] = config.model_type;
  out["dialect"] = to_string(config.dialect);
  out["layers"] = config.layers;
  out["softmax_layers"] = config.layers_of(AttentionKind::softmax);
  out["hidden"] = config.hidden;
  out["heads"] = config.heads;
  out["kv_heads"] = config.kv_heads;
  out["head_dim"] = config.head_dim;
  out["rotary_dim"] = config.rotary_dim;
  out["experts"] = config.experts;
  out["experts_per_token"] = config.experts_per_token;
  out["expert_inner"] = config.expert_inner;
  out["vocab"] = config.vocab;
  return out;
}

}  // namespace

std::string to_text(const Inspection& report) {
  std::string out;
  print_model(out, report);
  print_sizes(out, report);
  fmt::format_to(std::back_inserter(out),
                 "tensors       {} listed, {} mapped, {} ignored, in {} file{}\n", report.names,
                 report.mapped, report.ignored, report.shards, report.shards == 1 ? "" : "s");
  print_problems(out, "missing", report.missing);
  print_problems(out, "wrong", report.wrong);
  print_problems(out, "unknown", report.unknown);
  for (const std::string& line : report.damaged) out += "damaged: " + line + "\n";
  return out + verdict(report);
}

std::string to_json(const Inspection& report) {
  nlohmann::ordered_json out;
  out["directory"] = report.directory;
  out["config"] = config_json(report.config);
  out["layout"] = report.layout;
  out["total_params"] = report.total().params;
  out["active_params"] = report.config.active_params();
  out["total_bytes"] = report.total().bytes;
  out["index_total_bytes"] = nullptr;
  if (report.index_total_bytes) out["index_total_bytes"] = *report.index_total_bytes;
  out["parts"] = parts_json(report);
  out["state_bytes_per_sequence"] = report.config.state_bytes_per_sequence();
  out["kv_bytes_per_token"] = report.config.kv_bytes_per_token();
  out["tensors"] = {{"listed", report.names},
                    {"mapped", report.mapped},
                    {"ignored", report.ignored},
                    {"verified", report.verified}};
  out["shards"] = {{"named", report.shards}, {"absent", report.shards_absent}};
  out["missing"] = problems_json(report.missing);
  out["wrong"] = problems_json(report.wrong);
  out["unknown"] = problems_json(report.unknown);
  out["damaged"] = report.damaged;
  out["consistent"] = report.consistent();
  out["loadable"] = report.loadable();
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace fulgur::model
