#include "common/transport/curve_keys.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>

namespace fulgur::transport {
namespace {

constexpr std::size_t kZ85Characters = 40;
constexpr std::size_t kKeyBytes = 32;
constexpr std::size_t kFileBytesMax = 4096;

/// Closes a file descriptor.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

std::string trimmed(const std::string& line) {
  constexpr const char* kSpace = " \t\r";
  const std::size_t begin = line.find_first_not_of(kSpace);
  return begin == std::string::npos ? std::string()
                                    : line.substr(begin, line.find_last_not_of(kSpace) + 1 - begin);
}

/// An empty pair when `text` is no secret key.
CurveKey key_of(const std::string& text) {
  std::array<std::uint8_t, kKeyBytes> bytes{};
  std::array<char, kZ85Characters + 1> public_key{};
  if (text.size() != kZ85Characters || zmq_z85_decode(bytes.data(), text.c_str()) == nullptr ||
      zmq_curve_public(public_key.data(), text.c_str()) != 0) {
    return {};
  }
  return {public_key.data(), text};
}

Result<std::string> contents_of(const std::string& path) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  struct stat info {};
  if (file.fd < 0 || fstat(file.fd, &info) != 0) {
    return error(Code::invalid_argument, "cannot read the key file {}: {}", path,
                 std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) return error(Code::invalid_argument, "{} is not a file", path);
  if ((info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return error(Code::invalid_argument,
                 "{} is open to everybody (mode {:04o}): a key file must not be (chmod o= FILE)",
                 path, info.st_mode & 07777);
  }
  std::string text(kFileBytesMax + 1, '\0');
  const ssize_t size = read(file.fd, text.data(), text.size());
  if (size < 0) {
    return error(Code::invalid_argument, "cannot read the key file {}: {}", path,
                 std::strerror(errno));
  }
  text.resize(static_cast<std::size_t>(size));
  if (text.size() > kFileBytesMax) return error(Code::invalid_argument, "{} is no key file", path);
  return text;
}

}  // namespace

CurveKey new_curve_key() {
  std::array<char, kZ85Characters + 1> public_key{};
  std::array<char, kZ85Characters + 1> secret_key{};
  const int rc = zmq_curve_keypair(public_key.data(), secret_key.data());
  FULGUR_ASSERT(rc == 0, "this libzmq has no CURVE");
  return {public_key.data(), secret_key.data()};
}

Result<std::vector<CurveKey>> read_curve_keys(const std::string& path) {
  FULGUR_ASSIGN_OR_RETURN(const std::string text, contents_of(path));
  std::vector<CurveKey> keys;
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    line = trimmed(line);
    // A key may begin with '#' but has no spaces.
    if (line.empty() || line == "#" || line.starts_with("# ")) continue;
    CurveKey key = key_of(line);
    if (key.secret_key.empty()) {
      return error(Code::invalid_argument,
                   "{}, line {}: not a key (40 characters of Z85; fulgur keygen makes one)", path,
                   number);
    }
    if (keys.size() == kCurveKeysMax) {
      return error(Code::invalid_argument, "{} holds more than {} keys", path, kCurveKeysMax);
    }
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return error(Code::invalid_argument, "{} holds no key", path);
  return keys;
}

Status write_curve_key(const std::string& path, const CurveKey& key) {
  const Descriptor file{open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (file.fd < 0) {
    const Code code = errno == EEXIST ? Code::failed_precondition : Code::unavailable;
    return error(code, "cannot create {}: {}", path, std::strerror(errno));
  }
  const std::string text =
      fmt::format("# key of a fulgur mesh: whoever holds it is a member\n{}\n", key.secret_key);
  const bool written =
      write(file.fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      fchmod(file.fd, 0600) == 0;
  if (written) return Status::ok();
  const int reason = errno;
  unlink(path.c_str());
  return error(Code::unavailable, "cannot write {}: {}", path, std::strerror(reason));
}

}  // namespace fulgur::transport
