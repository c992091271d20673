// The flag by which every service gets the keys of its mesh.
#pragma once

#include <CLI/CLI.hpp>

#include <vector>

#include "common/transport/curve_keys.hpp"

namespace fulgur::service {

/// Declares --curve-key-file on `app`; parsing fills `keys`, or fails with one line that says what
/// is wrong with the file.
void add_curve_flag(CLI::App& app, std::vector<transport::CurveKey>& keys);

}  // namespace fulgur::service
