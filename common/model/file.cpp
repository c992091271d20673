#include "common/model/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

namespace fulgur::model {
namespace {

constexpr std::size_t kPrintableMax = 200;

std::string reason(int error_number) { return std::generic_category().message(error_number); }

Status open_error(const std::string& path, int error_number) {
  const Code code = error_number == ENOENT || error_number == ENOTDIR  ? Code::not_found
                    : error_number == EMFILE || error_number == ENFILE ? Code::resource_exhausted
                                                                       : Code::invalid_argument;
  return error(code, "{}: cannot open: {}", path, reason(error_number));
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kPrintableMax)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  if (text.size() > kPrintableMax) out += "...";
  return out;
}

/// Owns one file descriptor.
class ReadOnlyFile::Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Result<ReadOnlyFile> ReadOnlyFile::open(const std::string& path) {
  // O_NONBLOCK: a FIFO named like a checkpoint file must not block the open.
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return open_error(path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return open_error(path, errno);
  if (!S_ISREG(info.st_mode)) {
    return error(Code::invalid_argument, "{}: is not a regular file", path);
  }
  ReadOnlyFile file;
  file.path_ = path;
  file.size_ = static_cast<std::uint64_t>(info.st_size);
  file.device_ = info.st_dev;
  file.inode_ = info.st_ino;
  file.modified_ns_ = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  return file;
}

Result<ReadOnlyFile::Descriptor> ReadOnlyFile::reopen() const {
  Descriptor fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return open_error(path_, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return open_error(path_, errno);
  const std::int64_t modified_ns = info.st_mtim.tv_sec * 1'000'000'000LL + info.st_mtim.tv_nsec;
  if (info.st_dev != device_ || info.st_ino != inode_ || modified_ns != modified_ns_ ||
      static_cast<std::uint64_t>(info.st_size) != size_) {
    return error(Code::failed_precondition, "{}: changed since the checkpoint was opened", path_);
  }
  return fd;
}

Status ReadOnlyFile::read(std::uint64_t offset, void* out, std::size_t bytes) const {
  FULGUR_ASSIGN_OR_RETURN(const Descriptor fd, reopen());
  auto* cursor = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd.get(), cursor, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error(Code::data_loss, "{}: cannot read: {}", path_, reason(errno));
    if (got == 0) {
      return error(Code::data_loss, "{}: is truncated: {} bytes missing at offset {}", path_, bytes,
                   offset);
    }
    cursor += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
  return Status::ok();
}

Result<std::shared_ptr<const std::byte>> ReadOnlyFile::map(std::uint64_t offset,
                                                           std::size_t bytes) const {
  FULGUR_ASSERT(bytes > 0 && offset <= size_ && bytes <= size_ - offset, "range inside the file");
  FULGUR_ASSIGN_OR_RETURN(const Descriptor fd, reopen());
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t start = offset / page * page;
  const auto length = static_cast<std::size_t>(offset - start) + bytes;
  void* base = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, fd.get(), static_cast<off_t>(start));
  if (base == MAP_FAILED) {
    return error(Code::resource_exhausted, "{}: cannot map {} bytes: {}", path_, length,
                 reason(errno));
  }
  const auto* data = static_cast<const std::byte*>(base) + (offset - start);
  return std::shared_ptr<const std::byte>(
      data, [base, length](const std::byte*) { ::munmap(base, length); });
}

Result<std::string> read_small_file(const std::string& path, std::size_t bytes_max) {
  FULGUR_ASSIGN_OR_RETURN(const ReadOnlyFile file, ReadOnlyFile::open(path));
  if (file.size() > bytes_max) {
    return error(Code::data_loss, "{}: is {} bytes long; the limit is {}", path, file.size(),
                 bytes_max);
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  FULGUR_RETURN_IF_ERROR(file.read(0, text.data(), text.size()));
  return text;
}

}  // namespace fulgur::model
