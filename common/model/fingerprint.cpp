#include "common/model/fingerprint.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "common/base/rng.hpp"

namespace fulgur::model {
namespace {

constexpr std::uint64_t kSampleBytes = 1024;

void add_residual(Fingerprint& hash, const Residual& residual) {
  hash.add(static_cast<double>(residual.alpha));
  hash.add(static_cast<double>(residual.beta));
}

}  // namespace

void Fingerprint::add(std::uint64_t word) { state_ = mix64(state_ ^ mix64(word)); }

void Fingerprint::add(std::string_view bytes) {
  add(std::uint64_t{bytes.size()});
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    std::uint64_t word = 0;
    for (std::size_t i = std::min<std::size_t>(8, bytes.size() - at); i-- > 0;) {
      word = (word << 8) | static_cast<unsigned char>(bytes[at + i]);
    }
    add(word);
  }
}

void Fingerprint::add(double number) { add(std::bit_cast<std::uint64_t>(number)); }

void add_config(Fingerprint& hash, const ModelConfig& config) {
  for (const std::uint64_t size :
       {std::uint64_t{config.layers}, std::uint64_t{config.hidden}, std::uint64_t{config.heads},
        std::uint64_t{config.kv_heads}, std::uint64_t{config.head_dim},
        std::uint64_t{config.rotary_dim}, std::uint64_t{config.experts},
        std::uint64_t{config.experts_per_token}, std::uint64_t{config.expert_inner},
        std::uint64_t{config.vocab}}) {
    hash.add(size);
  }
  for (const AttentionKind kind : config.attention) hash.add(static_cast<std::uint64_t>(kind));
  // The dialect matters through its decay rule only: slopes and the fall over the layers.
  for (const std::uint32_t layer : {0U, config.layers - 1}) {
    for (const float rate : config.decay_rates(layer)) hash.add(static_cast<double>(rate));
  }
  hash.add(static_cast<double>(config.rms_eps));
  hash.add(static_cast<double>(config.lightning_norm_eps));
  hash.add(config.rope_theta);
  add_residual(hash, config.lightning_residual);
  add_residual(hash, config.softmax_residual);
  add_residual(hash, config.mlp_residual);
  hash.add(std::uint64_t{config.postnorm});
  hash.add(std::uint64_t{config.tie_word_embeddings});
}

void add_tensor(Fingerprint& hash, const TensorInfo& info) {
  hash.add(std::string_view(info.name));
  hash.add(info.dtype);
  hash.add(std::uint64_t{info.shape.size()});
  for (const std::uint64_t extent : info.shape) hash.add(extent);
}

Status add_file_sample(Fingerprint& hash, const SafetensorsFile& file) {
  const std::uint64_t data_bytes = file.file_bytes() - file.data_offset();
  const std::uint64_t sample = std::min(kSampleBytes, data_bytes);
  hash.add(data_bytes);
  std::array<char, kSampleBytes> buffer{};
  for (const std::uint64_t offset : {file.data_offset(), file.file_bytes() - sample}) {
    FULGUR_RETURN_IF_ERROR(file.file().read(offset, buffer.data(), sample));
    hash.add(std::string_view(buffer.data(), sample));
  }
  return Status::ok();
}

}  // namespace fulgur::model
