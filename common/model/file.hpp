// Read-only files of a checkpoint: bounded reads of small files and on-demand mappings of page-
// aligned ranges of big ones. A ReadOnlyFile keeps no descriptor between calls (a released model
// has 413 shards); it remembers which file it saw and refuses to read one that changed since.
// Const methods are safe to call from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/status.hpp"

namespace fulgur::model {

/// `text` cut to 200 bytes with control characters escaped, so that a name taken
/// from a hostile file still gives a one-line message.
std::string printable(std::string_view text);

/// The whole of a small file. not_found when absent, data_loss when longer than `bytes_max`.
Result<std::string> read_small_file(const std::string& path, std::size_t bytes_max);

class ReadOnlyFile {
 public:
  /// not_found when `path` is absent, invalid_argument when it is no regular file.
  static Result<ReadOnlyFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }

  /// Reads exactly `bytes` bytes at `offset`; data_loss when the file is shorter.
  Status read(std::uint64_t offset, void* out, std::size_t bytes) const;

  /// Maps [offset, offset + bytes) read-only; nothing outside the pages of that range is mapped.
  /// The pointer addresses `offset` itself and keeps the mapping alive. bytes > 0.
  Result<std::shared_ptr<const std::byte>> map(std::uint64_t offset, std::size_t bytes) const;

 private:
  class Descriptor;
  /// Opens the file again; failed_precondition when it is not the file seen by open().
  Result<Descriptor> reopen() const;

  std::string path_;
  std::uint64_t size_ = 0;
  std::uint64_t device_ = 0;
  std::uint64_t inode_ = 0;
  std::int64_t modified_ns_ = 0;
};

}  // namespace fulgur::model
