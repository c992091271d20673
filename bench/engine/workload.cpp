#include "bench/engine/workload.hpp"

#include <algorithm>

#include "common/base/rng.hpp"

namespace fulgur::bench {
namespace {

// Tokens every sequence generates before the clock starts: all prompts are in, all lanes are full.
constexpr std::uint32_t kWarmUpTokens = 4;

}  // namespace

wire::Submit Prompts::next(std::uint32_t prompt, std::uint32_t steps) {
  Rng rng(++drawn_);
  wire::Submit submit;
  for (std::uint32_t i = 0; i < prompt; ++i) {
    submit.tokens.push_back(static_cast<std::uint32_t>(rng.below(vocab_)));
  }
  submit.prompt_tokens = prompt;
  submit.max_new_tokens = steps;
  submit.sampling.seed = drawn_;
  return submit;
}

Point measure_decode(Target& target, const Clock& clock, Prompts& prompts, std::uint32_t batch,
                     std::uint32_t prompt, std::uint32_t steps) {
  std::vector<std::uint64_t> ids;
  for (std::uint32_t at = 0; at < batch; ++at) {
    ids.push_back(target.submit(prompts.next(prompt, kWarmUpTokens + steps)));
  }
  const auto generated = [&] {
    std::size_t sum = 0;
    for (const auto id : ids) sum += target.tokens(id);
    return sum;
  };
  target.wait([&] {
    return std::all_of(ids.begin(), ids.end(),
                       [&](auto id) { return target.tokens(id) >= kWarmUpTokens; });
  });
  const Nanoseconds start = clock.now();
  const std::size_t before = generated();
  target.wait([&] {
    return std::all_of(ids.begin(), ids.end(), [&](auto id) { return target.finished(id); });
  });
  return {batch, prompt, static_cast<std::uint32_t>(generated() - before), clock.now() - start};
}

Point measure_prefill(Target& target, const Clock& clock, Prompts& prompts, std::uint32_t prompt) {
  const Nanoseconds start = clock.now();
  const auto id = target.submit(prompts.next(prompt, 1));
  target.wait([&] { return target.finished(id); });
  return {1, prompt, prompt, clock.now() - start};
}

}  // namespace fulgur::bench
