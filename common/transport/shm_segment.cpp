#include "common/transport/shm_segment.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace fulgur::transport {
namespace {

constexpr const char* kFolder = "/dev/shm/";
constexpr std::string_view kPrefix = "fulgur-";
constexpr std::uint64_t kMagic = 0x31676e69724c4746;  // "FGLring1"
constexpr std::size_t kSmallestRing = 64U << 10;
constexpr std::size_t kLargestRing = 256U << 20;
constexpr std::size_t kDataOffset = 4096;

struct SegmentHeader {
  std::uint64_t magic;
  std::uint64_t ring_bytes;
};

struct Layout {
  alignas(64) SegmentHeader header;
  alignas(64) RingControl rings[2];
};
static_assert(sizeof(Layout) <= kDataOffset);

std::string path_of(const std::string& name) { return kFolder + name; }
std::string bell_path(const std::string& name, bool creator) {
  return path_of(name) + (creator ? ".c" : ".a");
}

bool well_formed(const std::string& name) {
  return name.starts_with(kPrefix) && name.size() <= 64 &&
         std::ranges::all_of(name, [](char c) { return std::isalnum(c) || c == '-'; });
}

bool ring_size_ok(std::size_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kSmallestRing && bytes <= kLargestRing;
}

/// Closes a file descriptor that is only needed for a while.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

/// Unlinks the files of a segment. Its memory last: without it nobody would look for the others.
void unlink_files(const std::string& name) {
  ::unlink(bell_path(name, true).c_str());
  ::unlink(bell_path(name, false).c_str());
  ::unlink(path_of(name).c_str());
}

/// Removes the segments of creators that were killed before their peer had opened them. An empty one
/// is just being created: it has no lock yet.
void remove_abandoned() {
  std::error_code failure;
  std::filesystem::directory_iterator folder(kFolder, failure);
  for (; !failure && folder != std::filesystem::end(folder); folder.increment(failure)) {
    const std::string name = folder->path().filename();
    if (!well_formed(name)) continue;
    const Descriptor file{
        ::open(path_of(name).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
    struct stat info {};
    if (file.fd < 0 || fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (info.st_uid != geteuid() || info.st_size == 0) continue;
    if (flock(file.fd, LOCK_EX | LOCK_NB) == 0) unlink_files(name);
  }
}

std::string fresh_name() {
  std::uint64_t random = 0;
  [[maybe_unused]] const auto got = getrandom(&random, sizeof(random), 0);
  return fmt::format("{}{}-{:016x}", kPrefix, getpid(), random);
}

}  // namespace

std::string host_identity() {
  struct stat mount {};
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  if (boot.empty() || stat(kFolder, &mount) != 0) return {};
  return fmt::format("{}:{}:{}:{}", boot, mount.st_dev, mount.st_ino, geteuid());
}

Result<std::unique_ptr<ShmSegment>> ShmSegment::create(std::size_t ring_bytes) {
  if (!ring_size_ok(ring_bytes)) {
    return error(Code::invalid_argument, "ring_bytes is {}: not a power of two in [{}, {}]",
                 ring_bytes, kSmallestRing, kLargestRing);
  }
  remove_abandoned();
  std::unique_ptr<ShmSegment> segment(new ShmSegment);
  segment->name_ = fresh_name();
  const int fd = ::open(path_of(segment->name_).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const std::size_t size = kDataOffset + 2 * ring_bytes;
  segment->linked_ = true;
  segment->lock_ = fd;
  // The lock before the size. Without allocated blocks a full /dev/shm would kill the first process
  // that writes.
  const int failed = fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0
                         ? errno
                         : posix_fallocate(fd, 0, static_cast<off_t>(size));
  if (failed != 0) {
    return error(Code::resource_exhausted, "cannot create {} bytes of shared memory: {}", size,
                 std::strerror(failed));
  }
  FULGUR_RETURN_IF_ERROR(segment->map(fd, size));
  reinterpret_cast<Layout*>(segment->memory_)->header = {kMagic, ring_bytes};
  segment->ring_bytes_ = ring_bytes;
  for (const bool creator : {true, false}) {
    if (mkfifo(bell_path(segment->name_, creator).c_str(), 0600) != 0) {
      return error(Code::unavailable, "cannot create a FIFO: {}", std::strerror(errno));
    }
  }
  FULGUR_RETURN_IF_ERROR(segment->open_bells(true));
  return segment;
}

Result<std::unique_ptr<ShmSegment>> ShmSegment::open(const std::string& name) {
  if (!well_formed(name)) {
    return error(Code::invalid_argument, "'{}' names no shared-memory link", name);
  }
  std::unique_ptr<ShmSegment> segment(new ShmSegment);
  segment->name_ = name;
  const Descriptor file{::open(path_of(name).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW)};
  struct stat info {};
  if (file.fd < 0 || fstat(file.fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return error(Code::unavailable, "cannot open shared memory {}: {}", name, std::strerror(errno));
  }
  SegmentHeader header{};
  if (pread(file.fd, &header, sizeof(header), 0) != sizeof(header) || header.magic != kMagic ||
      !ring_size_ok(header.ring_bytes) ||
      static_cast<std::size_t>(info.st_size) != kDataOffset + 2 * header.ring_bytes) {
    return error(Code::invalid_argument, "shared memory {} is not a link", name);
  }
  FULGUR_RETURN_IF_ERROR(segment->map(file.fd, static_cast<std::size_t>(info.st_size)));
  segment->ring_bytes_ = header.ring_bytes;
  FULGUR_RETURN_IF_ERROR(segment->open_bells(false));
  return segment;
}

Status ShmSegment::map(int fd, std::size_t size) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) {
    return error(Code::resource_exhausted, "cannot map {} bytes of shared memory: {}", size,
                 std::strerror(errno));
  }
  memory_ = static_cast<std::byte*>(memory);
  size_ = size;
  return Status::ok();
}

Status ShmSegment::open_bells(bool creator) {
  // Read-write, because opening a FIFO for writing alone fails while nobody reads.
  const int flags = O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
  own_bell_ = ::open(bell_path(name_, creator).c_str(), flags);
  peer_bell_ = ::open(bell_path(name_, !creator).c_str(), flags);
  for (const int bell : {own_bell_, peer_bell_}) {
    struct stat info {};
    if (bell < 0 || fstat(bell, &info) != 0 || !S_ISFIFO(info.st_mode)) {
      return error(Code::unavailable, "cannot open the doorbells of {}", name_);
    }
  }
  return Status::ok();
}

ShmSegment::~ShmSegment() {
  unlink();
  if (memory_ != nullptr) munmap(memory_, size_);
  if (own_bell_ >= 0) close(own_bell_);
  if (peer_bell_ >= 0) close(peer_bell_);
}

void ShmSegment::unlink() {
  if (!std::exchange(linked_, false)) return;
  unlink_files(name_);
  if (lock_ >= 0) close(std::exchange(lock_, -1));
}

RingControl& ShmSegment::control(int ring) {
  return reinterpret_cast<Layout*>(memory_)->rings[ring];
}

std::byte* ShmSegment::data(int ring) {
  return memory_ + kDataOffset + (ring == 0 ? 0 : ring_bytes_);
}

void ShmSegment::drain_bell() {
  std::array<std::byte, 64> rings;
  while (read(own_bell_, rings.data(), rings.size()) == static_cast<ssize_t>(rings.size())) {
  }
}

void ShmSegment::ring_peer() {
  const std::byte one{1};
  // A full FIFO rings already.
  [[maybe_unused]] const auto written = write(peer_bell_, &one, 1);
}

}  // namespace fulgur::transport
