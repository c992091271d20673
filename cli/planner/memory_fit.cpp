#include "cli/planner/memory_fit.hpp"

#include <algorithm>
#include <cmath>

namespace fulgur::planner {
namespace {

constexpr double kGiga = 1e9;
constexpr std::uint64_t kBf16 = 2;
constexpr std::uint64_t kF32 = 4;
/// kernels::kLightningBlock, which the command line may not include; a test compares them.
constexpr std::uint64_t kOpenBlockTokens = 64;
constexpr std::uint64_t kPageTokens = 64;

std::uint64_t experts_of(const model::ModelConfig& config) {
  return std::uint64_t{config.layers} * config.experts;
}

std::uint64_t rounded_up(double value) { return static_cast<std::uint64_t>(std::ceil(value)); }

std::uint64_t process_bytes(const Request& request) {
  return rounded_up(request.profile.process_gb * kGiga);
}

const char* weights_name(const Request& request) { return request.fp8_experts ? "fp8" : "bf16"; }

/// Bytes of a device that experts' weights may take, if it holds nothing else.
double usable_for_experts(const Request& request) {
  return usable_bytes(request) - static_cast<double>(worker_working(request).device());
}

Status experts_do_not_fit(const Request& request, const Split& split) {
  const auto& config = request.model.config;
  const double one = static_cast<double>(expert_bytes(request));
  const double single = static_cast<double>(experts_of(config)) * one / kGiga;
  const double wanted = static_cast<double>(replicas_wanted(request, split.experts)) * one / kGiga;
  Request bare = request;
  bare.spare = 0;
  const auto fewest = expert_devices_min(request);
  const std::string hint =
      split.colocated ? std::string("beside the attention weights on every device")
      : fewest == 0   ? std::string("a device cannot hold one expert")
                      : fmt::format("at least {} expert devices, {} without spare", fewest,
                                    expert_devices_min(bare));
  return error(Code::failed_precondition,
               "experts need {:.1f} GB {} for one replica of each, {:.1f} GB with {:.0f} % spare; "
               "{} x {:.1f} GB are usable beside working memory: {}",
               single, weights_name(request), wanted, request.spare * 100, split.experts,
               usable_for_experts(request) / kGiga, hint);
}

}  // namespace

SequenceBytes sequence_bytes(const Request& request) {
  const auto& config = request.model.config;
  const std::uint64_t lightning = config.layers_of(model::AttentionKind::lightning);
  SequenceBytes bytes;
  bytes.state = config.state_bytes_per_sequence();
  bytes.open_block = lightning * kOpenBlockTokens * 2 * config.attention_width() * kBf16;
  bytes.kv = rounded_up(request.context) * config.kv_bytes_per_token();
  return bytes;
}

std::uint64_t attention_bytes(const model::ModelConfig& config) {
  return kBf16 * (config.attention_params() + config.norm_params() + config.embedding_params() +
                  config.head_params()) +
         kF32 * config.router_params();
}

std::uint64_t expert_bytes(const Request& request) {
  return request.model.config.expert_params() * (request.fp8_experts ? 1 : kBf16);
}

std::uint64_t replicas_wanted(const Request& request, std::uint32_t workers) {
  const double copies = std::min(1 + request.spare, static_cast<double>(workers));
  return rounded_up(static_cast<double>(experts_of(request.model.config)) * copies);
}

double usable_bytes(const Request& request) {
  return request.profile.memory_gb * kGiga * (1 - request.headroom);
}

WorkingMemory shard_working(const Request& request, std::uint64_t sequences,
                            std::uint32_t micro_batches) {
  if (request.profile.process_gb <= 0) return {};
  // Sequences are spread over the micro-batches, prompts come beside them.
  const double rows =
      std::ceil(static_cast<double>(sequences) / micro_batches) * (1 + request.prefill_ratio());
  const std::uint64_t pages = (rounded_up(request.context) + kPageTokens - 1) / kPageTokens;
  ShardLimits limits;
  limits.sequences = sequences;
  limits.kv_tokens = sequences * pages * kPageTokens;
  limits.batch_tokens = std::max(request.batch_tokens, rounded_up(rows));
  limits.micro_batches = micro_batches;
  WorkingMemory working = shard_working_memory(request.model.config, limits);
  working.process += process_bytes(request);
  return working;
}

WorkingMemory worker_working(const Request& request) {
  if (request.profile.process_gb <= 0) return {};
  WorkingMemory working =
      worker_working_memory(request.model.config, {request.batch_rows, request.fp8_experts});
  working.process += process_bytes(request);
  return working;
}

std::uint32_t expert_devices_min(const Request& request) {
  const double one = static_cast<double>(expert_bytes(request));
  const double places = std::floor(usable_for_experts(request) / one);
  if (places < 1) return 0;
  std::uint32_t fewest = static_cast<std::uint32_t>(
      std::ceil(static_cast<double>(experts_of(request.model.config)) / places));
  while (fewest * places < static_cast<double>(replicas_wanted(request, fewest))) ++fewest;
  return fewest;
}

Result<MemoryFit> fit_memory(const Request& request, const Split& split,
                             std::uint32_t micro_batches) {
  const auto& config = request.model.config;
  MemoryFit fit;
  fit.sequence = sequence_bytes(request);
  fit.usable = usable_bytes(request);
  fit.attention = static_cast<double>(attention_bytes(config));
  fit.worker = worker_working(request);
  const auto working_for = [&](std::uint64_t sequences) {
    return static_cast<double>(shard_working(request, sequences, micro_batches).device());
  };
  const double at_least = fit.attention + working_for(1);
  if (at_least >= fit.usable) {
    return error(Code::failed_precondition,
                 "attention weights need {:.1f} GB on every attention device, working memory "
                 "{:.1f}, and {:.1f} GB of one are usable; weights are not split over devices",
                 fit.attention / kGiga, working_for(1) / kGiga, fit.usable / kGiga);
  }
  const double one = static_cast<double>(expert_bytes(request));
  const double beside = split.colocated ? at_least : 0;
  const double places =
      std::max(0.0, std::floor((usable_for_experts(request) - beside) / one)) * split.experts;
  const double wanted = static_cast<double>(replicas_wanted(request, split.experts));
  if (places < wanted) return experts_do_not_fit(request, split);
  const auto experts = static_cast<double>(experts_of(config));
  // A worker of its own fills its memory with replicas; beside sequences there are as many as
  // asked.
  fit.copies = split.colocated ? wanted / experts
                               : std::min<double>(split.experts, std::floor(places / experts));
  fit.copies = std::max(fit.copies, wanted / experts);
  fit.experts = std::ceil(wanted / split.experts) * one;
  double free = fit.usable - fit.attention;
  if (split.colocated) free -= fit.experts + static_cast<double>(fit.worker.device());
  // The most sequences beside which the working memory for as many fits.
  const double each = static_cast<double>(fit.sequence.sum());
  std::uint64_t a_shard = 0;
  std::uint64_t beyond = static_cast<std::uint64_t>(std::max(0.0, free) / each) + 1;
  while (beyond - a_shard > 1) {
    const std::uint64_t middle = a_shard + (beyond - a_shard) / 2;
    const bool fits = static_cast<double>(middle) * each + working_for(middle) <= free;
    (fits ? a_shard : beyond) = middle;
  }
  if (a_shard == 0) {
    return error(
        Code::failed_precondition,
        "a sequence of {:.0f} tokens needs {:.2f} GB (state {:.2f}, open blocks {:.2f}, KV "
        "{:.2f}) and {:.2f} GB are free beside the weights and working memory of an attention "
        "device",
        request.context, each / kGiga, static_cast<double>(fit.sequence.state) / kGiga,
        static_cast<double>(fit.sequence.open_block) / kGiga,
        static_cast<double>(fit.sequence.kv) / kGiga, std::max(0.0, free - working_for(1)) / kGiga);
  }
  fit.shard = shard_working(request, a_shard, micro_batches);
  fit.sequences_max = a_shard * split.attention;
  return fit;
}

}  // namespace fulgur::planner
