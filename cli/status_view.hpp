// What `fulgur status` prints: the services of a mesh as JSON or as an aligned table. Pure.
#pragma once

#include <string>

#include "cli/run_dir.hpp"
#include "common/base/status.hpp"

namespace fulgur::cli {

/// {"services":[{"kind","name","pid","endpoint","epoch","replicas","load","state","slow"}],
/// "pools":[{"pool","replicas","wanted",…}]} from the
/// orchestrator's /v1/mesh. data_loss when that is not what it should be.
Result<std::string> status_json(const std::string& mesh_json);

/// The same for people, with a last line that says whether the mesh serves.
Result<std::string> status_table(const std::string& mesh_json, const MeshRecord& record);

/// A stand-in for /v1/mesh while the orchestrator is away: what the supervisor knows.
std::string mesh_json_from_record(const MeshRecord& record);

}  // namespace fulgur::cli
