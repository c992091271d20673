// What one device and its links can do, as measured tables: the only place a plan takes speeds
// from. A plain value. Units are in the names; GB are 10^9 bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::planner {

struct Point {
  double x = 0;
  double y = 0;
};

/// Measured points by ascending x; never empty in a usable profile.
using Curve = std::vector<Point>;

/// Rate curves hold [rows of activations, GB/s of weights read]: the time of a byte of weights is
/// linear in rows between points (products do work in proportion to rows), constant below the first
/// and proportional to rows beyond the last, where products bound it. Seconds for one byte.
double seconds_per_byte(const Curve& gb_s_by_rows, double rows);

/// Time curves hold [bytes moved, us]: linear between points and on the first segment's line below
/// (never under zero bytes' value of that line or 0), proportional beyond the last. Seconds.
double seconds_of(const Curve& us_by_bytes, double bytes);

struct Link {
  double latency_us = 0;  ///< one way, of an empty message; nothing is occupied meanwhile
  Curve us_by_bytes;      ///< time one way for which the link is occupied; beside the latency
};

struct Profile {
  std::string name;
  std::string title;
  std::string status;  ///< "measured", "scaled, not measured", …: printed with every plan
  std::vector<std::string> sources;

  double memory_gb = 0;  ///< of one device
  /// What the driver takes of it for a process: context, code, local memory of kernels. 0: memory
  /// of a host, where no working memory is taken ahead or counted.
  double process_gb = 0;
  std::uint32_t devices_per_host = 8;  ///< more devices than these talk over `network`
  /// The pools share processors and take turns (what `fulgur up` starts on a small machine): no
  /// micro-batch is at a shard while another is at a worker.
  bool take_turns = false;

  double stream_gb_s = 0;  ///< row kernels: bytes read and written
  double launch_us = 0;    ///< least time of a kernel
  double step_us = 0;      ///< host time of a step that nothing hides: schedule, sample
  double message_us = 0;   ///< host time of one dispatch and its answer at a shard, beside the link

  Curve dense_gb_s;            ///< by rows: attention's projections, LM head
  Curve expert_gb_s;           ///< by rows of one expert
  double expert_floor_us = 0;  ///< of one layer's run, whatever it touches
  Curve lightning_us;          ///< decode: by bytes of state and open blocks read
  Curve softmax_us;            ///< decode: by bytes of KV read
  Curve lightning_prefill_us;  ///< by bytes of q, k, v, o
  double softmax_prefill_tflops = 0;

  Link host;     ///< between devices of one host
  Link network;  ///< between hosts
};

/// h100, h200, h20, cpu.
const std::vector<Profile>& known_profiles();

/// One of known_profiles(), or the file `name` when it ends in .json. not_found or invalid_argument
/// in one line.
Result<Profile> find_profile(const std::string& name);

/// One JSON object; parse_profile(to_json(p)) is p.
std::string to_json(const Profile& profile);
/// invalid_argument "<file>: <key> …".
Result<Profile> parse_profile(std::string_view text, const std::string& file);

}  // namespace fulgur::planner
