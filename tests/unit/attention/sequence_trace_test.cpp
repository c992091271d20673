// A shard's spans of a sequence: what is under what, in which order they end, and how many there
// can be; over a whole mesh in one process that no token changes and every span has its parent.
#include "services/attention/sequence_trace.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/unit/attention/exact_requests.hpp"
#include "tests/unit/telemetry/span_collector.hpp"

namespace fulgur::attention {
namespace {

using telemetry::Span;
using telemetry::SpanCollector;
using telemetry::value_of;

constexpr TraceContext kRouter{1, 2, 3};

MicroBatch batch_of(std::uint32_t rows) {
  MicroBatch batch;
  batch.tokens.resize(rows);
  batch.slices.resize(1);
  batch.slices[0].rows = rows;
  return batch;
}

wire::Submit submission(std::uint32_t prompt_tokens) {
  wire::Submit submit;
  submit.tokens.resize(prompt_tokens);
  submit.prompt_tokens = prompt_tokens;
  return submit;
}

/// A prompt in `chunks` micro-batches, then `tokens` tokens, a millisecond each.
void live(SequenceTrace& trace, std::uint32_t chunks, std::uint32_t tokens) {
  const MicroBatch prefill = batch_of(64);
  const MicroBatch decode = batch_of(1);
  Nanoseconds now = kMillisecond;
  for (std::uint32_t step = 0; step < chunks + tokens - 1; ++step) {
    const MicroBatch& batch = step < chunks ? prefill : decode;
    trace.begin_step(batch.slices[0], batch, now);
    now += kMillisecond;
    if (step + 1 >= chunks) trace.token(now);
    trace.end_step(now);
  }
  trace.end(wire::FinishReason::length, Status::ok(), tokens, now);
}

TEST(SequenceTrace, FollowsASequenceThroughItsPhases) {
  SpanCollector tracer;
  SequenceTrace trace(tracer, kRouter, submission(100), 0);
  live(trace, 2, 3);
  std::vector<std::string> names;
  for (const Span& span : tracer.spans()) names.push_back(span.name);
  EXPECT_EQ(names,
            (std::vector<std::string>{"shard.queue", "shard.prefill_chunk", "shard.prefill_chunk",
                                      "shard.prefill", "shard.decode_step", "shard.decode_step",
                                      "shard.decode", "shard.sequence"}));
  const Span stay = tracer.named("shard.sequence")[0];
  EXPECT_EQ(stay.parent, kRouter);
  EXPECT_EQ(value_of<std::string>(stay, "fulgur.finish_reason"), "length");
  EXPECT_EQ(value_of<std::int64_t>(stay, "fulgur.prompt_tokens"), 100);
  const Span prefill = tracer.named("shard.prefill")[0];
  const Span decode = tracer.named("shard.decode")[0];
  for (const Span& span : {tracer.named("shard.queue")[0], prefill, decode})
    EXPECT_EQ(span.parent, stay.context());
  for (const Span& chunk : tracer.named("shard.prefill_chunk"))
    EXPECT_EQ(chunk.parent, prefill.context());
  for (const Span& step : tracer.named("shard.decode_step"))
    EXPECT_EQ(step.parent, decode.context());
  EXPECT_EQ(prefill.end, decode.start) << "the first token ends the prompt's part";
  EXPECT_EQ(decode.events.size(), 3U);
  EXPECT_EQ(decode.end, stay.end);
  EXPECT_FALSE(stay.failed);
}

TEST(SequenceTrace, IsBounded) {
  SpanCollector tracer;
  SequenceTrace trace(tracer, kRouter, submission(1000), 0, {3, 2, 100, 5});
  live(trace, 20, 50);
  EXPECT_EQ(tracer.named("shard.prefill_chunk").size(), 3U);
  EXPECT_EQ(tracer.named("shard.decode_step").size(), 2U);
  EXPECT_EQ(tracer.spans().size(), 3U + 2U + 4U);
  const Span decode = tracer.named("shard.decode")[0];
  EXPECT_EQ(decode.events.size(), 5U);
  EXPECT_EQ(decode.events_dropped, 45U);
  EXPECT_EQ(value_of<std::int64_t>(decode, "fulgur.generated_tokens"), 50);
  EXPECT_EQ(value_of<std::int64_t>(tracer.named("shard.prefill")[0], "fulgur.chunks"), 20);
}

TEST(SequenceTrace, SaysHowItEnded) {
  SpanCollector tracer;
  SequenceTrace failed(tracer, kRouter, submission(1), 0);
  failed.end(wire::FinishReason::error, error(Code::resource_exhausted, "full"), 0, 1);
  EXPECT_TRUE(tracer.named("shard.sequence")[0].failed);
  EXPECT_EQ(tracer.named("shard.sequence")[0].why, "full");
  SequenceTrace moved(tracer, kRouter, submission(1), 0);
  moved.moved("attention-1");
  moved.end(wire::FinishReason::error, error(Code::unavailable, "moved"), 0, 1);
  const Span stay = tracer.named("shard.sequence")[1];
  EXPECT_FALSE(stay.failed);
  EXPECT_EQ(value_of<std::string>(stay, "fulgur.finish_reason"), "moved");
  EXPECT_EQ(value_of<std::string>(stay, "fulgur.moved_to"), "attention-1");
}

TEST(BatchTrace, LayersAndDispatchesShareABudget) {
  SpanCollector tracer;
  ManualClock clock;
  BatchTrace batch;
  EXPECT_EQ(DispatchTrace::begin(&tracer, batch, clock).id, 0U) << "no layer is traced";
  batch.step = {1, 2, 9};
  batch.details_left = 3;
  batch.begin_layer(tracer, 0, true, 0, 5 * kMicrosecond);
  ASSERT_TRUE(batch.layer_open());
  clock.advance(6 * kMicrosecond);
  const auto part = DispatchTrace::begin(&tracer, batch, clock);
  const auto lost = DispatchTrace::begin(&tracer, batch, clock);
  EXPECT_EQ(part.context(batch), (TraceContext{1, 2, part.id}));
  wire::Combine answer;
  answer.queue_us = 20;
  answer.compute_us = 30;
  part.end(tracer, batch, "expert-0", 4, &answer, "", clock.now() + 100 * kMicrosecond);
  lost.end(tracer, batch, "expert-1", 4, nullptr, "gone", clock.now() + 100 * kMicrosecond);
  batch.end_layer(tracer, Status::ok(), 110 * kMicrosecond, 120 * kMicrosecond);
  EXPECT_FALSE(batch.layer_open());
  batch.begin_layer(tracer, 1, true, 0, 0);
  EXPECT_FALSE(batch.layer_open()) << "three spans were left, and three were made";
  const auto spans = tracer.spans();
  ASSERT_EQ(spans.size(), 3U);
  EXPECT_EQ(spans[0].parent, spans[2].context());
  EXPECT_EQ(value_of<std::int64_t>(spans[0], "fulgur.network_us"), 50);
  EXPECT_TRUE(spans[1].failed);
  EXPECT_EQ(value_of<std::int64_t>(spans[2], "fulgur.attention_us"), 5);
  EXPECT_EQ(value_of<std::int64_t>(spans[2], "fulgur.experts_us"), 105);
  EXPECT_EQ(value_of<std::int64_t>(spans[2], "fulgur.combine_us"), 10);
}

/// Every span is within its parent, which exists, in the same trace; roots are the requests.
void expect_whole(const std::vector<Span>& spans, std::size_t requests) {
  std::map<std::uint64_t, Span> by_id;
  for (const Span& span : spans) EXPECT_TRUE(by_id.emplace(span.id, span).second) << "an id twice";
  std::set<std::uint64_t> roots;
  for (const Span& span : spans) {
    EXPECT_LE(span.start, span.end) << span.name;
    if (span.name == "shard.sequence") {
      EXPECT_EQ(span.parent.span, span.parent.low);
      roots.insert(span.parent.low);
      continue;
    }
    const auto parent = by_id.find(span.parent.span);
    ASSERT_NE(parent, by_id.end()) << span.name << " has no parent";
    EXPECT_EQ(parent->second.parent.low, span.parent.low) << span.name << " is in another trace";
    EXPECT_GE(span.start, parent->second.start) << span.name << " in " << parent->second.name;
    EXPECT_LE(span.end, parent->second.end) << span.name << " in " << parent->second.name;
    for (const TraceContext& link : span.links) EXPECT_TRUE(by_id.contains(link.span));
  }
  EXPECT_EQ(roots.size(), requests);
}

TEST(TracedMesh, ChangesNoBitAndLosesNoParent) {
  RealClock clock;
  for (const std::uint32_t workers : {0U, 3U}) {
    SCOPED_TRACE(workers);
    SpanCollector tracer;
    auto options = plain(Dtype::bf16);
    options.workers = workers;
    options.scheduler.lanes = workers == 0 ? 1 : 2;
    options.scheduler.batch_tokens = 128;
    options.tracer = &tracer;
    auto mesh = mesh::LocalMesh::start(tiny(), backend(Dtype::bf16), clock, options).value();
    std::vector<std::uint64_t> ids;
    for (const auto& submit : requests()) ids.push_back(mesh->submit(submit));
    ASSERT_TRUE(mesh->run());
    for (std::size_t at = 0; at < ids.size(); ++at)
      expect_same(mesh->generation(ids[at]), yardstick(Dtype::bf16)[at], at);
    expect_whole(tracer.spans(), ids.size());
    EXPECT_EQ(tracer.named("shard.decode").size(), ids.size());
    const std::size_t layers = tracer.named("shard.layer").size();
    EXPECT_GT(layers, 0U);
    EXPECT_EQ(layers % tiny()->config().layers, 0U) << "all layers of a micro-batch, or none";
    EXPECT_GE(tracer.named("shard.dispatch").size(), layers);
    EXPECT_EQ(tracer.named("shard.dispatch").size(), tracer.named("expert.run").size());
  }
}

TEST(TracedMesh, AWorkersDeathLeavesNoOrphan) {
  RealClock clock;
  SpanCollector tracer;
  auto options = plain(Dtype::bf16);
  options.workers = 3;
  options.tracer = &tracer;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(Dtype::bf16), clock, options).value();
  std::vector<std::uint64_t> ids;
  for (const auto& submit : requests()) ids.push_back(mesh->submit(submit));
  const auto asked = [&] { return tracer.named("shard.layer").size() > 4; };
  while (!asked() && mesh->step()) {
  }
  mesh->kill_worker(1);
  ASSERT_TRUE(mesh->run());
  for (std::size_t at = 0; at < ids.size(); ++at)
    expect_same(mesh->generation(ids[at]), yardstick(Dtype::bf16)[at], at);
  expect_whole(tracer.spans(), ids.size());
}

}  // namespace
}  // namespace fulgur::attention
