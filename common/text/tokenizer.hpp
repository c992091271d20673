// Byte-level BPE tokenizer described wholly by a Hugging Face tokenizer.json: text <-> token ids.
// Immutable after load(), safe to share between threads; copies share their tables.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/text/marked_text.hpp"

namespace fulgur::text {

struct TokenizerParts;

struct EncodeOptions {
  bool parse_special = true;        ///< recognise added tokens spelled out in the text
  bool add_special_tokens = false;  ///< what the post_processor adds around a text
};

class Tokenizer {
 public:
  /// Reads a tokenizer.json. Fails with not_found, data_loss (malformed) or invalid_argument (a
  /// component that byte-level BPE does not have), naming the file and the component.
  static Result<Tokenizer> load(const std::filesystem::path& tokenizer_json);
  /// The same from the file's content; `name` stands for the file in messages.
  static Result<Tokenizer> parse(std::string_view json, std::string_view name);

  /// Text to ids. Fails with invalid_argument naming the byte offset when `utf8` is not UTF-8, and
  /// with resource_exhausted when the file's pattern backtracks beyond its limits.
  Result<std::vector<std::uint32_t>> encode(std::string_view utf8,
                                            EncodeOptions options = {}) const;
  /// Text of which only the trusted bytes may spell added tokens. Words are cut as if the marks
  /// were not there.
  Result<std::vector<std::uint32_t>> encode(const MarkedText& text,
                                            bool add_special_tokens = false) const;

  /// Ids to text; bytes that are not UTF-8 become U+FFFD and unknown ids nothing.
  std::string decode(std::span<const std::uint32_t> ids, bool skip_special = false) const;

  /// The bytes a token stands for; empty for an unknown id.
  std::string_view token_bytes(std::uint32_t id) const;
  bool is_special(std::uint32_t id) const;
  /// The token that stands for exactly these bytes; added tokens first.
  std::optional<std::uint32_t> token_id(std::string_view bytes) const;
  /// Largest id plus one, added tokens included.
  std::size_t vocab_size() const;

 private:
  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const TokenizerParts> parts_;
};

}  // namespace fulgur::text
