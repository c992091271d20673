// The flags only an expert worker has.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "services/expert/worker.hpp"

namespace fulgur::expert {

struct WorkerFlags {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t load_bytes_per_second = 256U << 20;
  double drain_timeout_s = 20;
  std::size_t batch_rows = ExpertLayerLimits{}.batch_rows_max;
  std::string weights = "bf16";  ///< how the backend keeps experts: bf16 | fp8
  std::string failure_domain;  ///< the host's name by default
};

void add_worker_flags(CLI::App& app, WorkerFlags& flags);

/// Puts what the flags say into `options`.
void apply(const WorkerFlags& flags, WorkerOptions& options);

}  // namespace fulgur::expert
