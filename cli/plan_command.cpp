// fulgur plan.
#include <charconv>
#include <cstdio>

#include "cli/commands.hpp"
#include "cli/planner/report.hpp"

namespace fulgur::cli {
namespace {

/// A bad flag: one line, exit code 2. What is wrong with a file is 1, as elsewhere.
int refuse(const Status& status) {
  fail(status);
  return status.code() == Code::invalid_argument ? 2 : 1;
}

/// "A:E" or "colocated" (all `devices`).
Result<planner::Split> parse_split(const std::string& text, std::uint32_t devices) {
  if (text == "colocated") return planner::Split{devices, devices, true};
  planner::Split split;
  const char* const end = text.data() + text.size();
  const auto attention = std::from_chars(text.data(), end, split.attention);
  if (attention.ec == std::errc() && attention.ptr != end && *attention.ptr == ':') {
    const auto experts = std::from_chars(attention.ptr + 1, end, split.experts);
    const bool whole = experts.ec == std::errc() && experts.ptr == end;
    if (whole && split.attention > 0 && split.experts > 0 && split.attention <= devices &&
        split.experts <= devices) {
      return split;
    }
  }
  return error(Code::invalid_argument,
               "--split {}: must be ATTENTION:EXPERTS, each from 1 to --gpus, or colocated", text);
}

Result<planner::Request> make_request(const PlanOptions& options) {
  planner::Request request;
  FULGUR_ASSIGN_OR_RETURN(request.profile, planner::find_profile(options.gpu));
  if (options.gpus == 0) return error(Code::invalid_argument, "--gpus N is required");
  if (!options.split.empty()) {
    FULGUR_ASSIGN_OR_RETURN(request.split, parse_split(options.split, options.gpus));
  }
  FULGUR_ASSIGN_OR_RETURN(request.model, planner::find_shape(options.model));
  request.devices = options.gpus;
  request.context = options.context;
  request.tpot_ms = options.tpot_ms;
  request.prompt = options.prompt;
  request.output = options.output;
  request.fp8_experts = options.weights == "fp8";
  request.spare = options.spare;
  request.headroom = options.headroom;
  request.batch_tokens = options.batch_tokens;
  request.batch_rows = options.batch_rows;
  if (options.micro_batches > 0) request.micro_batches = options.micro_batches;
  if (options.sequences > 0) request.sequences = options.sequences;
  FULGUR_RETURN_IF_ERROR(planner::check(request));
  return request;
}

}  // namespace

int run(const PlanOptions& options) {
  if (!options.print_profile.empty()) {
    const auto profile = planner::find_profile(options.print_profile);
    if (!profile.is_ok()) return refuse(profile.status());
    std::printf("%s\n", planner::to_json(*profile).c_str());
    return 0;
  }
  const auto request = make_request(options);
  if (!request.is_ok()) return refuse(request.status());
  const planner::Outcome outcome = planner::make_plans(*request);
  const std::string text = options.json
                               ? planner::to_json(*request, outcome, options.alternatives) + "\n"
                               : planner::to_text(*request, outcome, options.alternatives);
  std::fputs(text.c_str(), stdout);
  return outcome.feasible() ? 0 : 1;
}

}  // namespace fulgur::cli
