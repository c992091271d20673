#include "cli/planner/pipeline.hpp"

#include <algorithm>

#include "common/base/assert.hpp"

namespace fulgur::planner {
namespace {

/// Takes work at `ready`, or when it is free; returns when the work is done.
double occupy(double& free, double ready, double seconds) {
  free = std::max(free, ready) + seconds;
  return free;
}

/// When each resource is free.
struct Resources {
  double attention = 0;
  double out = 0;
  double experts = 0;
  double back = 0;
};

/// Moves every micro-batch, ready for attention at ready[i], through a layer. `head`: what the
/// attention pool does for it before.
void advance(const StageTimes& stage, double head, bool one_resource, Resources& free,
             std::vector<double>& ready) {
  for (double& at : ready) {
    const double attended = occupy(free.attention, at, head + stage.attention);
    at = occupy(free.out, attended, stage.out) + stage.out_latency;
  }
  double& experts = one_resource ? free.attention : free.experts;
  for (double& at : ready) {
    const double done = occupy(experts, at, stage.experts);
    at = occupy(free.back, done, stage.back) + stage.back_latency;
  }
}

}  // namespace

double step_seconds(const Pipeline& pipeline) {
  FULGUR_ASSERT(pipeline.micro_batches > 0, "a step has micro-batches");
  std::vector<double> ready(pipeline.micro_batches, 0.0);
  Resources free;
  for (std::uint32_t step = 0; step < kSteps; ++step) {
    // A micro-batch's head and its next step's first layer are one piece of work.
    double head = step == 0 ? 0 : pipeline.head;
    for (const StageTimes& stage : pipeline.layers) {
      advance(stage, head, pipeline.one_resource, free, ready);
      head = 0;
    }
  }
  for (double& at : ready) at = occupy(free.attention, at, pipeline.head);
  return *std::max_element(ready.begin(), ready.end()) / kSteps;
}

Busy busy_seconds(const Pipeline& pipeline) {
  Busy busy;
  double back = 0;
  for (const StageTimes& stage : pipeline.layers) {
    busy.attention += stage.attention;
    busy.experts += stage.experts;
    busy.link += stage.out;
    back += stage.back;
  }
  busy.attention += pipeline.head;
  busy.link = std::max(busy.link, back);
  for (double* const seconds : {&busy.attention, &busy.link, &busy.experts}) {
    *seconds *= pipeline.micro_batches;
  }
  return busy;
}

}  // namespace fulgur::planner
