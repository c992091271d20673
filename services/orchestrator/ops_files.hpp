// The files of the operations page (ops/), embedded when the orchestrator is built.
#pragma once

#include "common/http/embedded_file.hpp"

namespace fulgur::orchestrator {

extern const std::span<const http::EmbeddedFile> kOpsFiles;

}  // namespace fulgur::orchestrator
