// The time a step takes when several micro-batches go through all layers over three resources: the
// attention pool, the link and the expert pool. Pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

namespace fulgur::planner {

/// Seconds of one micro-batch in one layer. A link's direction is occupied for `out` or `back`;
/// latency comes on top and occupies nothing.
struct StageTimes {
  double attention = 0;
  double out = 0;
  double out_latency = 0;
  double experts = 0;
  double back = 0;
  double back_latency = 0;
};

struct Pipeline {
  std::vector<StageTimes> layers;
  double head = 0;  ///< seconds of a micro-batch at the attention pool after the last layer, at
                    ///< once followed by its next step's first
  std::uint32_t micro_batches = 1;
  bool one_resource = false;  ///< attention and experts share their devices
};

/// Steps over which a step's time is averaged, from an empty pipeline.
inline constexpr std::uint32_t kSteps = 16;

/// Mean seconds of a step. Work starts when its input is there and its resource is free; a
/// resource takes micro-batches in order, layer by layer. That is the order in which equal
/// micro-batches arrive, so first come, first served does the same; being fixed, it makes the
/// result rise with every stage's time.
double step_seconds(const Pipeline& pipeline);

/// Seconds a step keeps each resource busy.
struct Busy {
  double attention = 0;
  double link = 0;  ///< the busier direction
  double experts = 0;
};
Busy busy_seconds(const Pipeline& pipeline);

}  // namespace fulgur::planner
