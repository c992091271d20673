// The pipeline: added tokens, normalisation, pretokenisation, BPE, post-processing.
#include "common/text/tokenizer.hpp"

#include <fstream>
#include <sstream>

#include "common/text/tokenizer_parts.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

/// One encode call: its scratch memory and its output.
class Encoding {
 public:
  Encoding(const TokenizerParts& parts, std::vector<TokenId>& out) : parts_(parts), out_(out) {}

  Status run(const MarkedText& text) {
    std::vector<TextPart> raw;
    parts_.added_raw.split(text, 0, text.size(), raw);
    for (const TextPart& part : raw) {
      if (part.token) {
        out_.push_back(*part.token);
      } else if (parts_.normalizer.empty()) {
        FULGUR_RETURN_IF_ERROR(run_normalized(text, part.begin, part.end));
      } else {
        const MarkedText normal = parts_.normalizer.apply(text.slice(part.begin, part.end));
        FULGUR_RETURN_IF_ERROR(run_normalized(normal, 0, normal.size()));
      }
    }
    return Status::ok();
  }

 private:
  Status run_normalized(const MarkedText& text, std::size_t begin, std::size_t end) {
    std::vector<TextPart> pieces;
    parts_.added_normalized.split(text, begin, end, pieces);
    for (const TextPart& piece : pieces) {
      if (piece.token) {
        out_.push_back(*piece.token);
        continue;
      }
      const std::string_view bytes = text.text();
      FULGUR_RETURN_IF_ERROR(parts_.pretokenizer.split(
          bytes.substr(piece.begin, piece.end - piece.begin), scratch_, words_));
      for (const std::string_view word : words_) parts_.bpe.encode_word(word, out_);
    }
    return Status::ok();
  }

  const TokenizerParts& parts_;
  std::vector<TokenId>& out_;
  Pretokenizer::Scratch scratch_;
  std::vector<std::string_view> words_;
};

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  std::ifstream file(tokenizer_json, std::ios::binary);
  if (!file) return error(Code::not_found, "cannot open {}", tokenizer_json.string());
  std::ostringstream content;
  content << file.rdbuf();
  if (!file) return error(Code::data_loss, "cannot read {}", tokenizer_json.string());
  return parse(std::move(content).str(), tokenizer_json.string());
}

Result<Tokenizer> Tokenizer::parse(std::string_view json, std::string_view name) {
  auto parts = parse_tokenizer_json(json);
  if (!parts) return error(parts.status().code(), "{}: {}", name, parts.status().message());
  return Tokenizer(std::make_shared<const TokenizerParts>(std::move(*parts)));
}

Result<std::vector<std::uint32_t>> Tokenizer::encode(std::string_view utf8,
                                                     EncodeOptions options) const {
  return encode(MarkedText(utf8, options.parse_special), options.add_special_tokens);
}

Result<std::vector<std::uint32_t>> Tokenizer::encode(const MarkedText& text,
                                                     bool add_special_tokens) const {
  const std::size_t valid = utf8::valid_prefix(text.text());
  if (valid != text.size()) {
    return error(Code::invalid_argument, "text is not valid UTF-8 at byte {}", valid);
  }
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special_tokens) ids = parts_->prefix;
  FULGUR_RETURN_IF_ERROR(Encoding(*parts_, ids).run(text));
  if (add_special_tokens) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::uint32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special || !is_special(id)) bytes += token_bytes(id);
  }
  std::string text;
  if (utf8::append_lossy(text, bytes) != bytes.size()) text += utf8::kReplacement;
  return text;
}

std::string_view Tokenizer::token_bytes(std::uint32_t id) const {
  return parts_->vocabulary.bytes(id);
}

bool Tokenizer::is_special(std::uint32_t id) const {
  return id < parts_->special.size() && parts_->special[id];
}

std::optional<std::uint32_t> Tokenizer::token_id(std::string_view bytes) const {
  return parts_->vocabulary.find(bytes);
}

std::size_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

}  // namespace fulgur::text
