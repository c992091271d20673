// Reads tokenizer.json (simdjson DOM). Whatever the file asks for is either done or refused by
// name: a tokenizer that is nearly right gives wrong text without any error.
#include <simdjson.h>

#include <algorithm>

#include "common/text/byte_alphabet.hpp"
#include "common/text/tokenizer_parts.hpp"

namespace fulgur::text {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

constexpr std::uint64_t kMaxTokenId = 1U << 24;
constexpr int kMaxNesting = 8;
// GPT-2's pattern, which ByteLevel applies when use_regex is set.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Status malformed(std::string_view field, std::string_view wanted) {
  return error(Code::data_loss, "{} must be {}", field, wanted);
}

Status unsupported(std::string_view field, std::string_view name) {
  return error(Code::invalid_argument, "{} {} is not supported", field, name);
}

bool is_absent(const object& parent, const char* key) {
  element value;
  return parent[key].get(value) != simdjson::SUCCESS || value.is_null();
}

Result<std::string_view> get_string(const object& parent, const char* key, std::string_view field) {
  std::string_view value;
  if (parent[key].get(value) != simdjson::SUCCESS) {
    return malformed(fmt::format("{}.{}", field, key), "a string");
  }
  return value;
}

bool get_bool(const object& parent, const char* key, bool fallback) {
  bool value = fallback;
  return parent[key].get(value) == simdjson::SUCCESS ? value : fallback;
}

Result<TokenId> to_token_id(const element& value, std::string_view field) {
  std::uint64_t id = 0;
  if (value.get(id) != simdjson::SUCCESS || id > kMaxTokenId) {
    return malformed(field, fmt::format("a token id up to {}", kMaxTokenId));
  }
  return static_cast<TokenId>(id);
}

// --- model -----------------------------------------------------------------------------------

Status refuse_model_options(const object& model) {
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    if (is_absent(model, key)) continue;
    std::string_view text;
    double number = 0;
    const bool empty = model[key].get(text) == simdjson::SUCCESS && text.empty();
    const bool zero = model[key].get(number) == simdjson::SUCCESS && number == 0;
    if (!empty && !zero) return unsupported("model option", key);
  }
  return Status::ok();
}

Status read_vocabulary(const object& model, Vocabulary& vocabulary) {
  object entries;
  if (model["vocab"].get(entries) != simdjson::SUCCESS) {
    return malformed("model.vocab", "an object of token to id");
  }
  std::string bytes;
  for (const auto& [spelling, value] : entries) {
    FULGUR_ASSIGN_OR_RETURN(const TokenId id, to_token_id(value, "an entry of model.vocab"));
    bytes.clear();
    append_spelled_bytes(bytes, spelling);
    vocabulary.set(id, bytes);
  }
  if (vocabulary.size() == 0) return malformed("model.vocab", "not empty");
  vocabulary.seal();
  return Status::ok();
}

/// One merge, "a b" or ["a", "b"], as the spelled halves.
Result<std::pair<std::string_view, std::string_view>> read_pair(const element& merge,
                                                                std::size_t index) {
  std::string_view text, left, right;
  array halves;
  if (merge.get(text) == simdjson::SUCCESS) {
    const std::size_t space = text.find(' ');
    if (space != std::string_view::npos) {
      return std::pair{text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.get(halves) == simdjson::SUCCESS && halves.size() == 2 &&
             halves.at(0).get(left) == simdjson::SUCCESS &&
             halves.at(1).get(right) == simdjson::SUCCESS) {
    return std::pair{left, right};
  }
  return malformed(fmt::format("model.merges[{}]", index), "\"a b\" or [\"a\", \"b\"]");
}

Status read_merges(const object& model, const Vocabulary& vocabulary, MergeTable& table) {
  array merges;
  if (model["merges"].get(merges) != simdjson::SUCCESS) {
    return malformed("model.merges", "an array");
  }
  // size() saturates at 0xFFFFFF, far above any vocabulary.
  table.reserve(merges.size());
  std::string bytes;
  std::uint32_t rank = 0;
  for (const element& merge : merges) {
    FULGUR_ASSIGN_OR_RETURN(const auto pair, read_pair(merge, rank));
    bytes.clear();
    append_spelled_bytes(bytes, pair.first);
    const std::size_t middle = bytes.size();
    append_spelled_bytes(bytes, pair.second);
    const auto left = vocabulary.find(std::string_view(bytes).substr(0, middle));
    const auto right = vocabulary.find(std::string_view(bytes).substr(middle));
    const auto merged = vocabulary.find(bytes);
    if (!left || !right || !merged) {
      return error(Code::data_loss, "model.merges[{}] ({} {}) names a token that is not in vocab",
                   rank, pair.first, pair.second);
    }
    table.add(*left, *right, {rank++, *merged});
  }
  return Status::ok();
}

Result<Bpe> read_model(const object& root, Vocabulary& vocabulary) {
  object model;
  if (root["model"].get(model) != simdjson::SUCCESS) return malformed("model", "an object");
  if (!is_absent(model, "type")) {
    FULGUR_ASSIGN_OR_RETURN(const std::string_view type, get_string(model, "type", "model"));
    if (type != "BPE") return unsupported("model type", type);
  }
  FULGUR_RETURN_IF_ERROR(refuse_model_options(model));
  FULGUR_RETURN_IF_ERROR(read_vocabulary(model, vocabulary));
  MergeTable merges;
  FULGUR_RETURN_IF_ERROR(read_merges(model, vocabulary, merges));
  Bpe::Options options;
  options.ignore_merges = get_bool(model, "ignore_merges", false);
  options.fuse_unknown = get_bool(model, "fuse_unk", false);
  if (!is_absent(model, "unk_token")) {
    FULGUR_ASSIGN_OR_RETURN(const std::string_view unknown,
                            get_string(model, "unk_token", "model"));
    options.unknown = vocabulary.find(unknown);
  }
  return Bpe(vocabulary, std::move(merges), options);
}

// --- added tokens ----------------------------------------------------------------------------

Status read_added_tokens(const object& root, TokenizerParts& parts) {
  if (is_absent(root, "added_tokens")) return Status::ok();
  array tokens;
  if (root["added_tokens"].get(tokens) != simdjson::SUCCESS) {
    return malformed("added_tokens", "an array");
  }
  for (const element& item : tokens) {
    object entry;
    if (item.get(entry) != simdjson::SUCCESS) return malformed("added_tokens", "objects");
    element id;
    if (entry["id"].get(id) != simdjson::SUCCESS) return malformed("added_tokens.id", "present");
    AddedToken token;
    FULGUR_ASSIGN_OR_RETURN(token.id, to_token_id(id, "added_tokens.id"));
    FULGUR_ASSIGN_OR_RETURN(const std::string_view content,
                            get_string(entry, "content", "added_tokens"));
    token.content = content;
    token.special = get_bool(entry, "special", false);
    token.single_word = get_bool(entry, "single_word", false);
    token.lstrip = get_bool(entry, "lstrip", false);
    token.rstrip = get_bool(entry, "rstrip", false);
    token.normalized = get_bool(entry, "normalized", !token.special);
    std::string bytes;
    append_spelled_bytes(bytes, content);
    parts.vocabulary.set(token.id, bytes);
    parts.special.resize(parts.vocabulary.size());
    parts.special[token.id] = token.special;
    if (token.normalized) {
      token.content = parts.normalizer.apply(MarkedText(token.content, true)).text();
      parts.added_normalized.add(std::move(token));
    } else {
      parts.added_raw.add(std::move(token));
    }
  }
  return Status::ok();
}

// --- normalizer ------------------------------------------------------------------------------

Status read_normalizer(const object& step, Normalizer& normalizer, int depth) {
  FULGUR_ASSIGN_OR_RETURN(const std::string_view type, get_string(step, "type", "normalizer"));
  if (type == "NFC") return normalizer.add(NormalForm::nfc), Status::ok();
  if (type == "NFD") return normalizer.add(NormalForm::nfd), Status::ok();
  if (type == "NFKC") return normalizer.add(NormalForm::nfkc), Status::ok();
  if (type == "NFKD") return normalizer.add(NormalForm::nfkd), Status::ok();
  array steps;
  if (type != "Sequence" || depth >= kMaxNesting) return unsupported("normalizer", type);
  if (step["normalizers"].get(steps) != simdjson::SUCCESS) {
    return malformed("normalizer.normalizers", "an array");
  }
  for (const element& item : steps) {
    object inner;
    if (item.get(inner) != simdjson::SUCCESS) return malformed("normalizer", "an object");
    FULGUR_RETURN_IF_ERROR(read_normalizer(inner, normalizer, depth + 1));
  }
  return Status::ok();
}

// --- pre_tokenizer ---------------------------------------------------------------------------

Result<SplitBehavior> read_behavior(const object& step) {
  FULGUR_ASSIGN_OR_RETURN(const std::string_view name,
                          get_string(step, "behavior", "pre_tokenizer.Split"));
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  return unsupported("pre_tokenizer Split behavior", name);
}

Status read_split(const object& step, Pretokenizer& pretokenizer) {
  object pattern;
  std::string_view text;
  if (step["pattern"].get(pattern) != simdjson::SUCCESS) {
    return malformed("pre_tokenizer.Split.pattern", "{\"Regex\": …} or {\"String\": …}");
  }
  const bool is_regex = pattern["Regex"].get(text) == simdjson::SUCCESS;
  if (!is_regex && pattern["String"].get(text) != simdjson::SUCCESS) {
    return malformed("pre_tokenizer.Split.pattern", "{\"Regex\": …} or {\"String\": …}");
  }
  FULGUR_ASSIGN_OR_RETURN(Regex regex, is_regex ? Regex::compile(text) : Regex::literal(text));
  FULGUR_ASSIGN_OR_RETURN(const SplitBehavior behavior, read_behavior(step));
  pretokenizer.add_split({std::move(regex), behavior, get_bool(step, "invert", false)});
  return Status::ok();
}

Status read_digits(const object& step, Pretokenizer& pretokenizer) {
  FULGUR_ASSIGN_OR_RETURN(Regex regex, Regex::compile("\\p{N}"));
  const bool individual = get_bool(step, "individual_digits", false);
  pretokenizer.add_split(
      {std::move(regex), individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
  return Status::ok();
}

Status read_byte_level(const object& step, Pretokenizer& pretokenizer) {
  if (get_bool(step, "add_prefix_space", true)) pretokenizer.set_prefix_space();
  if (get_bool(step, "use_regex", true)) {
    FULGUR_ASSIGN_OR_RETURN(Regex regex, Regex::compile(kByteLevelPattern));
    pretokenizer.add_split({std::move(regex)});
  }
  return Status::ok();
}

Status read_pretokenizer(const object& step, Pretokenizer& pretokenizer, bool& byte_level,
                         int depth) {
  FULGUR_ASSIGN_OR_RETURN(const std::string_view type, get_string(step, "type", "pre_tokenizer"));
  if (byte_level) {  // the text is already spelled in the byte alphabet there
    return unsupported("pre_tokenizer after ByteLevel:", type);
  }
  if (type == "Split") return read_split(step, pretokenizer);
  if (type == "Digits") return read_digits(step, pretokenizer);
  if (type == "ByteLevel") {
    byte_level = true;
    return read_byte_level(step, pretokenizer);
  }
  array steps;
  if (type != "Sequence" || depth >= kMaxNesting) return unsupported("pre_tokenizer", type);
  if (step["pretokenizers"].get(steps) != simdjson::SUCCESS) {
    return malformed("pre_tokenizer.pretokenizers", "an array");
  }
  for (const element& item : steps) {
    object inner;
    if (item.get(inner) != simdjson::SUCCESS) return malformed("pre_tokenizer", "an object");
    FULGUR_RETURN_IF_ERROR(read_pretokenizer(inner, pretokenizer, byte_level, depth + 1));
  }
  return Status::ok();
}

// --- post_processor --------------------------------------------------------------------------

/// Token ids that a TemplateProcessing special token stands for.
Status append_template_token(const object& processor, std::string_view name,
                             std::vector<TokenId>& out) {
  object table, entry;
  array ids;
  if (processor["special_tokens"].get(table) != simdjson::SUCCESS ||
      table[name].get(entry) != simdjson::SUCCESS || entry["ids"].get(ids) != simdjson::SUCCESS) {
    return error(Code::data_loss, "post_processor.special_tokens has no ids for {}", name);
  }
  for (const element& id : ids) {
    FULGUR_ASSIGN_OR_RETURN(const TokenId token, to_token_id(id, "post_processor ids"));
    out.push_back(token);
  }
  return Status::ok();
}

Status read_template(const object& processor, TokenizerParts& parts) {
  array items;
  if (processor["single"].get(items) != simdjson::SUCCESS) {
    return malformed("post_processor.single", "an array");
  }
  bool after_text = false;
  std::vector<TokenId> prefix, suffix;
  for (const element& item : items) {
    object token;
    std::string_view name;
    if (item["SpecialToken"].get(token) != simdjson::SUCCESS) {
      after_text = true;
      continue;
    }
    if (token["id"].get(name) != simdjson::SUCCESS) {
      return malformed("post_processor.single.SpecialToken.id", "a string");
    }
    FULGUR_RETURN_IF_ERROR(append_template_token(processor, name, after_text ? suffix : prefix));
  }
  parts.prefix.insert(parts.prefix.begin(), prefix.begin(), prefix.end());
  parts.suffix.insert(parts.suffix.end(), suffix.begin(), suffix.end());
  return Status::ok();
}

/// BertProcessing and RobertaProcessing: "cls": [text, id] before, "sep": [text, id] after.
Status read_cls_sep(const object& processor, TokenizerParts& parts) {
  element cls, sep;
  if (processor["cls"].at(1).get(cls) != simdjson::SUCCESS ||
      processor["sep"].at(1).get(sep) != simdjson::SUCCESS) {
    return malformed("post_processor cls and sep", "[text, id]");
  }
  FULGUR_ASSIGN_OR_RETURN(const TokenId before, to_token_id(cls, "post_processor.cls"));
  FULGUR_ASSIGN_OR_RETURN(const TokenId after, to_token_id(sep, "post_processor.sep"));
  parts.prefix.insert(parts.prefix.begin(), before);
  parts.suffix.push_back(after);
  return Status::ok();
}

Status read_post_processor(const object& processor, TokenizerParts& parts, int depth) {
  FULGUR_ASSIGN_OR_RETURN(const std::string_view type,
                          get_string(processor, "type", "post_processor"));
  if (type == "ByteLevel") return Status::ok();  // moves offsets only
  if (type == "TemplateProcessing") return read_template(processor, parts);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    return read_cls_sep(processor, parts);
  }
  array steps;
  if (type != "Sequence" || depth >= kMaxNesting) return unsupported("post_processor", type);
  if (processor["processors"].get(steps) != simdjson::SUCCESS) {
    return malformed("post_processor.processors", "an array");
  }
  for (const element& item : steps) {
    object inner;
    if (item.get(inner) != simdjson::SUCCESS) return malformed("post_processor", "an object");
    FULGUR_RETURN_IF_ERROR(read_post_processor(inner, parts, depth + 1));
  }
  return Status::ok();
}

Status read_stages(const object& root, TokenizerParts& parts) {
  object stage;
  if (!is_absent(root, "normalizer")) {
    if (root["normalizer"].get(stage) != simdjson::SUCCESS) {
      return malformed("normalizer", "an object");
    }
    FULGUR_RETURN_IF_ERROR(read_normalizer(stage, parts.normalizer, 0));
  }
  bool byte_level = false;
  if (!is_absent(root, "pre_tokenizer")) {
    if (root["pre_tokenizer"].get(stage) != simdjson::SUCCESS) {
      return malformed("pre_tokenizer", "an object");
    }
    FULGUR_RETURN_IF_ERROR(read_pretokenizer(stage, parts.pretokenizer, byte_level, 0));
  }
  if (!byte_level) return unsupported("pre_tokenizer", "without ByteLevel");
  if (is_absent(root, "post_processor")) return Status::ok();
  if (root["post_processor"].get(stage) != simdjson::SUCCESS) {
    return malformed("post_processor", "an object");
  }
  return read_post_processor(stage, parts, 0);
}

Status check_decoder(const object& root) {
  if (is_absent(root, "decoder")) return Status::ok();
  object decoder;
  if (root["decoder"].get(decoder) != simdjson::SUCCESS) return malformed("decoder", "an object");
  FULGUR_ASSIGN_OR_RETURN(const std::string_view type, get_string(decoder, "type", "decoder"));
  return type == "ByteLevel" ? Status::ok() : unsupported("decoder", type);
}

}  // namespace

Result<TokenizerParts> parse_tokenizer_json(std::string_view json) {
  simdjson::dom::parser parser;
  element document;
  const auto fault = parser.parse(json.data(), json.size()).get(document);
  if (fault != simdjson::SUCCESS) {
    return error(Code::data_loss, "not valid JSON: {}", simdjson::error_message(fault));
  }
  object root;
  if (document.get(root) != simdjson::SUCCESS) return malformed("the file", "a JSON object");
  TokenizerParts parts;
  FULGUR_RETURN_IF_ERROR(check_decoder(root));
  FULGUR_RETURN_IF_ERROR(read_stages(root, parts));
  FULGUR_ASSIGN_OR_RETURN(parts.bpe, read_model(root, parts.vocabulary));
  parts.special.assign(parts.vocabulary.size(), false);
  FULGUR_RETURN_IF_ERROR(read_added_tokens(root, parts));
  parts.vocabulary.seal();
  return parts;
}

}  // namespace fulgur::text
