// The profiles that are built in. Every number has its source beside it; what was not measured says
// so in `status` and `sources`, which every plan prints.
#include <algorithm>

#include "cli/planner/profile.hpp"

namespace fulgur::planner {
namespace {

// Bytes behind the measured shapes of docs/performance.md.
constexpr double kExpertMb = 339.738624;  // 3 x 6144 x 9216 bf16
constexpr double kDenseMb = 301.989888;   // 6144 x 24576 bf16
constexpr double kMega = 1e6;
constexpr double kMicroGiga = 1e3;  // MB / us in GB/s

constexpr double dense_gb_s(double us, double launch_us) {
  return kDenseMb / (us - launch_us) * kMicroGiga;
}

constexpr double expert_gb_s(double us, double floor_us, double touched) {
  return kExpertMb * touched / (us - floor_us) * kMicroGiga;
}

/// docs/performance.md, "CUDA kernels on one H100". Experts are of later runs, after the grouped
/// product stored through shared memory and the plan became a counting sort.
Profile h100() {
  Profile p;
  p.name = "h100";
  p.title = "NVIDIA H100 80GB HBM3";
  p.status = "kernels, links of one host and slices of the model measured; network not";
  p.sources = {
      "kernels: docs/performance.md, one H100, medians around CUDA-graph replays",
      "link of one host: NCCL send/recv round trips of two H100 over NVLink, synchronised",
      "link between hosts: 40 GB/s a NIC as DeepEP V1 publishes it, latency of the host's link: "
      "not measured by us",
      "experts: whole layer (plan, gather, products, scatter), middles of the ranges of several "
      "runs",
      "driver's share of a process, 0.6 GB: a worker and a shard of m1-small took 0.82 and 1.16 in all"};
  p.memory_gb = 80;
  p.process_gb = 0.6;
  // Residual + norm of 8192 tokens: 14 x 6144 bytes a token in 0.247 ms.
  p.stream_gb_s = 2850;
  // What lightning decode at B = 1 takes (5.8 us) beyond its 5.3 MB at copy bandwidth (1.8 us).
  p.launch_us = 4.0;
  // Dense product 6144 x 24576: ms by rows.
  for (const auto& [rows, ms] : {std::pair{1.0, 0.105},
                                 {16.0, 0.105},
                                 {64.0, 0.108},
                                 {128.0, 0.113},
                                 {256.0, 0.155},
                                 {2048.0, 0.844},
                                 {8192.0, 3.83}}) {
    p.dense_gb_s.push_back({rows, dense_gb_s(ms * 1e3, p.launch_us)});
  }
  // Experts of one layer, middles of what runs gave: T = 1 0.248 to 0.269 ms, 16 2.2 to 2.4, 4096
  // 4.6 to 4.7, 16384 17.8 to 18.2 (610 to 625 TFLOP/s; 0.287 of it gather, 0.04 plan). T = 1
  // touches two experts and T = 4 touched six: of five the run without any would cost less than
  // nothing, and seven would have come at 3.9 TB/s. Rows an expert are about the same, so both give
  // the cost of an expert, 0.108 ms, and of a run without any. At that cost T = 16 touched 21; T =
  // 64 31, at the cost that all 32 have at T = 256.
  constexpr double kOneToken = 258.5;
  p.expert_floor_us = kOneToken - 2 * (690 - kOneToken) / (6 - 2);
  struct Row {
    double tokens, ms, touched;
  };
  for (const auto& [tokens, ms, touched] :
       {Row{4, 0.69, 6}, Row{16, 2.3, 21}, Row{64, 3.5, 31}, Row{256, 3.57, 32},
        Row{1024, 3.71, 32}, Row{4096, 4.65, 32}, Row{16384, 18.0, 32}}) {
    p.expert_gb_s.push_back(
        {2 * tokens / touched, expert_gb_s(ms * 1e3, p.expert_floor_us, touched)});
  }
  // Lightning decode at B = 1, 16, 64, 256: 4 MiB of state and on average 32.5 places of an open
  // block of 32 KiB a place.
  constexpr double kSequence = 4'194'304 + 32.5 * 32'768;
  p.lightning_us = {
      {kSequence, 5.8}, {16 * kSequence, 34.9}, {64 * kSequence, 128}, {256 * kSequence, 498}};
  // Softmax decode 1 x 8192, 1 x 32768, 1 x 131072 (16 x 8192 is the same), 64 x 8192 positions of
  // 4,096 bytes.
  p.softmax_us = {{8192 * 4096.0, 24.0},
                  {32768 * 4096.0, 54.6},
                  {131072 * 4096.0, 201},
                  {64 * 8192 * 4096.0, 783}};
  // Lightning prefill of 2048, 8192 and 32768 tokens (mean of 1 x 32768 and 8 x 4096), 64 KiB each.
  p.lightning_prefill_us = {
      {2048 * 65'536.0, 63.3}, {8192 * 65'536.0, 195}, {32768 * 65'536.0, 805}};
  // Causal, 1 x 32768, the lower of two runs (487 in docs/performance.md's); 1 x 8192 has 465, 1 x
  // 2048 344.
  p.softmax_prefill_tflops = 474;
  // Round trips of x out and 2x back: 121 us at 1.5 MiB and below, 280 us at 12 MiB, 0.88 ms at
  // 96 MiB (pipelined). Half of 120 us is a way's latency; what is left is spread by bytes.
  constexpr double kMib = 1'048'576;
  p.host = {60.0,
            {{12 * kMib, 160.0 / 3},
             {24 * kMib, 320.0 / 3},
             {96 * kMib, 880.0 / 3},
             {192 * kMib, 1760.0 / 3}}};
  p.network = {60.0, {{kMega, kMega / 40e3}}};
  return p;
}

/// What published ratios of memory bandwidth and bf16 products make of a measured profile. A rate
/// near its curve's best is bound by memory, another one by products.
Curve scaled_rates(const Curve& curve, double memory, double products) {
  double best = 0;
  double peak = 0;
  for (const Point& point : curve) {
    best = std::max(best, point.y);
    peak = std::max(peak, point.x * point.y);
  }
  Curve scaled;
  for (const Point& point : curve) {
    const bool memory_bound = point.y >= 0.85 * best;
    const double rate = point.y * (memory_bound ? memory : products);
    scaled.push_back({point.x, std::min(rate, peak * products / point.x)});
  }
  return scaled;
}

Profile scaled(Profile p, double memory, double products) {
  p.status = "scaled from h100 by published ratios, not measured";
  p.stream_gb_s *= memory;
  p.dense_gb_s = scaled_rates(p.dense_gb_s, memory, products);
  p.expert_gb_s = scaled_rates(p.expert_gb_s, memory, products);
  for (Curve* const curve : {&p.lightning_us, &p.softmax_us, &p.lightning_prefill_us}) {
    for (Point& point : *curve) point.y /= memory;
  }
  p.softmax_prefill_tflops *= products;
  return p;
}

/// 141 GB at 4.8 TB/s against 3.35; the same multiprocessors.
Profile h200() {
  Profile p = scaled(h100(), 4.8 / 3.35, 1);
  p.name = "h200";
  p.title = "NVIDIA H200 141GB";
  p.memory_gb = 141;
  p.sources.insert(p.sources.begin(), "scaled: memory 4.8 / 3.35 TB/s, products as H100");
  return p;
}

/// 96 GB at 4.0 TB/s, 148 TFLOP/s of bf16 against 989.
Profile h20() {
  Profile p = scaled(h100(), 4.0 / 3.35, 148.0 / 989);
  p.name = "h20";
  p.title = "NVIDIA H20 96GB";
  p.memory_gb = 96;
  p.sources.insert(p.sources.begin(), "scaled: memory 4.0 / 3.35 TB/s, products 148 / 989 TFLOP/s");
  return p;
}

/// One core of a virtual machine, a process of one thread: medians of three runs of `fulgur bench
/// kernels --threads 1 --cpu-time`, which measured 14.1 to 15.7 GB/s of memory bandwidth.
Profile cpu() {
  Profile p;
  p.name = "cpu";
  p.title = "one core of an Intel Xeon (06-CF) virtual machine";
  p.status = "kernels measured; the link on another machine (AMD Zen 5)";
  p.sources = {"kernels: fulgur bench kernels --threads 1 --cpu-time, docs/capacity.md",
               "link: fulgur bench transport, shared memory, README.md; half a round trip a way"};
  p.memory_gb = 11.5;  // half of a machine with two cores and 23 GB
  p.devices_per_host = 1024;
  p.take_turns = true;
  p.stream_gb_s = 14.4;
  // Matmul of 1024 x 3072: GB/s of its weights by rows.
  p.dense_gb_s = {{1, 11.6}, {8, 7.5}, {32, 2.48}, {512, 0.156}};
  // Experts 16 top-2, 1024 x 1536, T = 1, 8, 32, 512: 2, 10, 16 and 16 of them had rows.
  p.expert_gb_s = {{1, 11.3}, {1.6, 11.7}, {4, 10.0}, {64, 1.257}};
  // One layer of 1 and 32 sequences at position 31: state 512 KiB, open block 128 KiB.
  p.lightning_us = {{655'360.0, 56.8}, {32 * 655'360.0, 1851.6}};
  // 1 x 4096 and 32 x 1024 positions of 1 KiB.
  p.softmax_us = {{4096 * 1024.0, 369.6}, {32 * 1024 * 1024.0, 3014}};
  // 512 tokens of 8 KiB; then 1 x 512 from position 0.
  p.lightning_prefill_us = {{512 * 8192.0, 4569}};
  p.softmax_prefill_tflops = 0.0833;
  p.host = {0, {{12'288, 2.85}, {196'608, 7.25}, {1'572'864, 48}}};
  p.network = p.host;
  return p;
}

}  // namespace

const std::vector<Profile>& known_profiles() {
  static const std::vector<Profile> kProfiles = {h100(), h200(), h20(), cpu()};
  return kProfiles;
}

}  // namespace fulgur::planner
