#include "cli/scale_room.hpp"

#include <algorithm>
#include <fstream>
#include <limits>

namespace fulgur::cli {
namespace {

constexpr std::uint64_t kProcessBytes = 48U << 20;  // program, threads, buffers of an idle one
constexpr double kMiB = 1 << 20;

std::uint64_t bytes_of_one(const PoolSize& size, const PoolCosts& costs) {
  if (size.kind != "expert") return kProcessBytes + costs.shard_bytes;
  const std::uint64_t copies = std::min(costs.replicas, size.wanted);
  return kProcessBytes + costs.experts_bytes * copies / size.wanted;
}

/// The first number of a file; the largest one when there is none ("max", no such file).
std::uint64_t number_in(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : std::numeric_limits<std::uint64_t>::max();
}

std::uint64_t control_group_room() {
  const std::string group = "/sys/fs/cgroup/memory.";
  const std::uint64_t most = number_in(group + "max");
  const std::uint64_t used = number_in(group + "current");
  if (most == std::numeric_limits<std::uint64_t>::max() || used > most) return most;
  return most - used;
}

}  // namespace

Status check_room(const PoolSize& size, const PoolCosts& costs, std::uint64_t available) {
  if (size.wanted > size.most)
    return error(Code::failed_precondition, "{} are more than this mesh may have: --max-{} is {}",
                 size.wanted, size.kind == "expert" ? "experts" : "attention", size.most);
  if (size.wanted <= size.present) return Status::ok();
  const std::uint64_t fresh = size.wanted - size.present;
  const std::uint64_t one = bytes_of_one(size, costs);
  if (one <= available / fresh) return Status::ok();
  return error(Code::failed_precondition,
               "{} more {} processes need about {:.0f} MiB each, {:.0f} MiB of memory are available",
               fresh, size.kind, static_cast<double>(one) / kMiB,
               static_cast<double>(available) / kMiB);
}

std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::uint64_t available = std::numeric_limits<std::uint64_t>::max();
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("MemAvailable:")) available = std::stoull(line.substr(13)) * 1024;
  return std::min(available, control_group_room());
}

}  // namespace fulgur::cli
