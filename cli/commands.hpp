// The commands of `fulgur`. Each returns the process's exit code and prints what its user reads;
// errors are one line on stderr.
#pragma once

#include <string>

#include "cli/options.hpp"
#include "common/base/status.hpp"

namespace fulgur::cli {

int run(const UpOptions& options);
int run(const DownOptions& options);
int run(const StatusOptions& options);
int run(const DrainOptions& options);
int run(const ScaleOptions& options);
int run(const ChatOptions& options);
int run(const DemoOptions& options);
int run(const CheckOptions& options);
int run(const PlanOptions& options);
int run(const SynthOptions& options);
int run(const KeygenOptions& options);
int run(const BenchOptions& options);

/// "fulgur: MESSAGE" on stderr; returns 1.
int fail(const Status& status);
/// Folder of this program; the services' programs are its neighbours.
std::string program_directory();
/// `given`, or the bundled fulgur-tiny. not_found naming what is missing.
Result<std::string> model_directory(const std::string& given);

}  // namespace fulgur::cli
