#include "common/model/synth.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "common/base/bf16.hpp"
#include "common/base/rng.hpp"
#include "common/model/normal_table.hpp"
#include "common/model/synth_plan.hpp"

namespace fulgur::model {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kChunkElements = 1U << 20;  // a multiple of the four numbers of one draw
constexpr unsigned kThreadsMax = 64;

/// At most kChunkElements of one tensor.
struct Chunk {
  const PlannedFile* file = nullptr;
  const PlannedTensor* tensor = nullptr;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

Status write_error(const std::string& path, int error_number) {
  const bool full = error_number == ENOSPC || error_number == EDQUOT;
  return error(full ? Code::resource_exhausted : Code::invalid_argument, "{}: cannot write: {}",
               path, std::generic_category().message(error_number));
}

/// A file being written at given offsets; thread-safe.
class OutputFile {
 public:
  OutputFile() = default;
  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  Status create(const std::string& path) {
    path_ = path;
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd_ < 0 ? write_error(path, errno) : Status::ok();
  }

  Status write(std::uint64_t offset, const void* data, std::size_t bytes) const {
    const auto* cursor = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t put = ::pwrite(fd_, cursor, bytes, static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) return write_error(path_, put < 0 ? errno : EIO);
      cursor += put;
      offset += static_cast<std::uint64_t>(put);
      bytes -= static_cast<std::size_t>(put);
    }
    return Status::ok();
  }

 private:
  std::string path_;
  int fd_ = -1;
};

Status write_text(const std::string& path, const std::string& text) {
  OutputFile file;
  FULGUR_RETURN_IF_ERROR(file.create(path));
  return file.write(0, text.data(), text.size());
}

/// Fills chunks of one (deviation, mean) with table look-ups; rebuilt when the tensor's kind
/// changes.
class ChunkFiller {
 public:
  /// Writes the chunk's values to `out`, which has room for count * 4 bytes.
  void fill(const Chunk& chunk, std::byte* out) {
    const PlannedTensor& tensor = *chunk.tensor;
    prepare(tensor.mean, tensor.deviation);
    if (tensor.dtype == Dtype::f32) {
      fill_values(tensor.stream, chunk, floats_.data(), reinterpret_cast<float*>(out));
    } else {
      fill_values(tensor.stream, chunk, halves_.data(), reinterpret_cast<Bf16*>(out));
    }
  }

 private:
  void prepare(float mean, float deviation) {
    if (!floats_.empty() && mean == mean_ && deviation == deviation_) return;
    mean_ = mean;
    deviation_ = deviation;
    floats_.resize(NormalTable::kSize);
    halves_.resize(NormalTable::kSize);
    const NormalTable& normal = NormalTable::instance();
    for (std::size_t i = 0; i < NormalTable::kSize; ++i) {
      floats_[i] = static_cast<float>(mean + deviation * normal[static_cast<std::uint16_t>(i)]);
      halves_[i] = to_bf16(floats_[i]);
    }
  }

  template <class T>
  static void fill_values(std::uint64_t stream, const Chunk& chunk, const T* table, T* out) {
    std::uint64_t i = 0;
    for (std::uint64_t draw = chunk.first / 4; i < chunk.count; ++draw) {
      std::uint64_t bits = random_bits(stream, draw);
      for (int k = 0; k < 4 && i < chunk.count; ++k, bits >>= 16) out[i++] = table[bits & 0xffff];
    }
  }

  float mean_ = 0;
  float deviation_ = 0;
  std::vector<float> floats_;
  std::vector<Bf16> halves_;
};

/// Writes all chunks with several threads; the first failure stops the rest.
class Writer {
 public:
  Writer(const std::vector<PlannedFile>& files, std::string directory)
      : files_(files), directory_(std::move(directory)), outputs_(files.size()) {
    for (const PlannedFile& file : files) {
      for (const PlannedTensor& tensor : file.tensors) {
        for (std::uint64_t at = 0; at < tensor.elements; at += kChunkElements) {
          chunks_.push_back({&file, &tensor, at, std::min(kChunkElements, tensor.elements - at)});
        }
        total_ += tensor.bytes();
      }
    }
  }

  Status run(const SynthOptions& options) {
    for (std::size_t i = 0; i < files_.size(); ++i) {
      FULGUR_RETURN_IF_ERROR(outputs_[i].create(directory_ + "/" + files_[i].name));
      FULGUR_RETURN_IF_ERROR(
          outputs_[i].write(0, files_[i].header.data(), files_[i].header.size()));
    }
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < std::clamp(options.threads, 1U, kThreadsMax); ++i) {
      helpers.emplace_back([this] { work({}); });
    }
    work(options.progress);
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

 private:
  void work(const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    ChunkFiller filler;
    std::vector<std::byte> buffer(kChunkElements * sizeof(float));
    for (std::size_t i = next_++; i < chunks_.size(); i = next_++) {
      const Chunk& chunk = chunks_[i];
      filler.fill(chunk, buffer.data());
      const std::size_t width = size_of(chunk.tensor->dtype);
      const std::uint64_t offset =
          chunk.file->header.size() + chunk.tensor->offset + chunk.first * width;
      const Status written = outputs_[static_cast<std::size_t>(chunk.file - files_.data())].write(
          offset, buffer.data(), chunk.count * width);
      if (!written) return fail(written);
      const std::uint64_t done = done_ += chunk.count * width;
      if (progress) progress(done, total_);
    }
  }

  void fail(const Status& status) {
    const std::scoped_lock lock(mutex_);
    if (failure_.is_ok()) failure_ = status;
    next_ = chunks_.size();
  }

  const std::vector<PlannedFile>& files_;
  std::string directory_;
  std::vector<OutputFile> outputs_;
  std::vector<Chunk> chunks_;
  std::uint64_t total_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::mutex mutex_;
  Status failure_;
};

Status check_target(const fs::path& target, std::uint64_t bytes) {
  std::error_code failure;
  if (fs::exists(target, failure) &&
      !(fs::is_directory(target, failure) && fs::is_empty(target, failure))) {
    return error(Code::failed_precondition, "{}: exists and is not an empty directory",
                 target.string());
  }
  const fs::path parent = target.parent_path();
  fs::create_directories(parent, failure);
  if (failure) {
    return error(Code::invalid_argument, "{}: cannot create: {}", parent.string(),
                 failure.message());
  }
  const fs::space_info space = fs::space(parent, failure);
  if (!failure && space.available < bytes + (bytes >> 6)) {
    return error(Code::resource_exhausted, "{}: needs {:.2f} GB and {:.2f} GB are free",
                 target.string(), static_cast<double>(bytes) / 1e9,
                 static_cast<double>(space.available) / 1e9);
  }
  return Status::ok();
}

Status write_checkpoint(const SynthPreset& preset, const SynthOptions& options,
                        const std::vector<PlannedFile>& files, const std::string& directory) {
  FULGUR_RETURN_IF_ERROR(Writer(files, directory).run(options));
  FULGUR_RETURN_IF_ERROR(
      write_text(directory + "/model.safetensors.index.json", synth_index_json(files)));
  return write_text(directory + "/config.json", synth_config_json(preset.config));
}

}  // namespace

Result<std::uint64_t> synthesize(const SynthPreset& preset, const SynthOptions& options) {
  const std::vector<PlannedFile> files = plan_files(preset, options.seed);
  std::uint64_t bytes = 0;
  for (const PlannedFile& file : files) bytes += file.bytes;
  if (options.directory.empty()) return error(Code::invalid_argument, "synth: no directory given");
  fs::path target = fs::absolute(options.directory).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  FULGUR_RETURN_IF_ERROR(check_target(target, bytes));
  const std::string partial = fmt::format("{}.partial-{}", target.string(), ::getpid());
  std::error_code failure;
  fs::remove_all(partial, failure);
  if (!fs::create_directory(partial, failure)) {
    return error(Code::invalid_argument, "{}: cannot create: {}", partial, failure.message());
  }
  Status status = write_checkpoint(preset, options, files, partial);
  if (status.is_ok() && std::rename(partial.c_str(), target.c_str()) != 0) {
    status = write_error(target.string(), errno);
  }
  if (!status.is_ok()) {
    fs::remove_all(partial, failure);
    return status;
  }
  return bytes;
}

Result<std::uint64_t> synthesize(const SynthOptions& options) {
  std::string known;
  for (const SynthPreset& preset : synth_presets()) {
    if (preset.name == options.preset) return synthesize(preset, options);
    known += known.empty() ? preset.name : ", " + preset.name;
  }
  return error(Code::invalid_argument, "preset \"{}\" is unknown; expected one of {}",
               options.preset, known);
}

}  // namespace fulgur::model
