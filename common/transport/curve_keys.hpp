// CURVE keys of a mesh and the file that holds them. One file serves every process of a mesh: one
// secret key a line, as 40 characters of Z85; lines that begin with "# " are comments. Who holds
// the file is a member. A process listens with the first key and tries all of them, the first
// first, when it connects: that is what makes a change of keys possible while the mesh serves.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::transport {

/// A pair, each half 40 characters of Z85.
struct CurveKey {
  std::string public_key;
  std::string secret_key;
};

inline constexpr std::size_t kCurveKeysMax = 4;

/// A fresh pair from the system's random numbers.
CurveKey new_curve_key();

/// All keys of a file, 1 to kCurveKeysMax. invalid_argument, with one line that names file and line
/// but shows no key, when it cannot be read, everybody may read it, or it holds something else.
Result<std::vector<CurveKey>> read_curve_keys(const std::string& path);

/// Writes a new file that only its owner may read; failed_precondition when there is one already.
Status write_curve_key(const std::string& path, const CurveKey& key);

}  // namespace fulgur::transport
