#include "services/router/served_model.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/model/checkpoint.hpp"
#include "common/text/utf8.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::router {
namespace {

namespace fs = std::filesystem;

/// A JSON object from an optional file; an empty object when there is no such file.
Result<Json> read_json(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return Json(Json::object());
  try {
    Json json = Json::parse(file);
    if (json.is_object()) return json;
  } catch (const Json::exception&) {
  }
  return error(Code::data_loss, "{}: not a JSON object", path.string());
}

/// "eos_token": "</s>" or {"content": "</s>"}.
std::string token_content(const Json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    return (*found)["content"].get<std::string>();
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const ServedModel>> ServedModel::load(const ServedModelOptions& options) {
  std::error_code ignored;
  const fs::path directory = fs::canonical(options.directory, ignored);
  if (ignored) return error(Code::not_found, "{}: no such model directory", options.directory);
  FULGUR_ASSIGN_OR_RETURN(const auto checkpoint, model::Checkpoint::open(directory.string()));
  const model::ModelConfig& config = checkpoint->config();

  auto served = std::shared_ptr<ServedModel>(new ServedModel());
  served->name_ = options.served_name.empty() ? directory.filename().string() : options.served_name;
  served->created_ = std::chrono::duration_cast<std::chrono::seconds>(
                         std::chrono::system_clock::now().time_since_epoch()).count();
  served->fingerprint_ = checkpoint->fingerprint();
  served->limits_.vocab = config.vocab;
  served->limits_.context_max = std::min<std::uint64_t>(config.max_positions, wire::kMaxTokens);
  if (options.context_max != 0 && options.context_max < served->limits_.context_max) {
    served->limits_.context_max = options.context_max;
  }
  served->limits_.default_max_tokens = options.default_max_tokens;
  served->eos_ids_ = config.eos_ids;
  FULGUR_RETURN_IF_ERROR(served->load_tokenizer(directory.string()));
  FULGUR_RETURN_IF_ERROR(served->load_defaults(directory.string()));
  return std::shared_ptr<const ServedModel>(std::move(served));
}

Status ServedModel::load_tokenizer(const std::string& directory) {
  const fs::path file = fs::path(directory) / "tokenizer.json";
  if (!fs::exists(file)) return Status::ok();
  FULGUR_ASSIGN_OR_RETURN(tokenizer_, text::Tokenizer::load(file));
  auto chat = text::load_chat_template(directory);
  if (chat.is_ok()) {
    chat_template_ = std::move(*chat);
  } else if (chat.status().code() != Code::not_found) {
    return chat.status();
  }
  if (!eos_ids_.empty()) return Status::ok();
  // MiniMax's own config names no end token; the tokenizer does.
  FULGUR_ASSIGN_OR_RETURN(const Json config,
                          read_json(fs::path(directory) / "tokenizer_config.json"));
  const std::string eos = token_content(config, "eos_token");
  if (const auto id = tokenizer_->token_id(eos); !eos.empty() && id) eos_ids_.push_back(*id);
  return Status::ok();
}

Status ServedModel::load_defaults(const std::string& directory) {
  const fs::path file = fs::path(directory) / "generation_config.json";
  FULGUR_ASSIGN_OR_RETURN(const Json config, read_json(file));
  wire::SamplingParams& defaults = limits_.defaults;
  FieldReader fields(config);
  const auto read = [&fields](std::string_view name, double least, double most, float& into) {
    if (const auto value = fields.number(name, least, most)) into = static_cast<float>(*value);
  };
  read("temperature", 0, 100, defaults.temperature);
  read("top_p", 0, 1, defaults.top_p);
  read("min_p", 0, 1, defaults.min_p);
  read("repetition_penalty", 0.01, 10, defaults.repetition_penalty);
  if (const auto k = fields.integer("top_k", -1, limits_.vocab)) {
    defaults.top_k = static_cast<std::uint32_t>(std::max<std::int64_t>(*k, 0));
  }
  if (fields.ok()) return Status::ok();
  return error(Code::invalid_argument, "{}: {}", file.string(), fields.error().message);
}

ApiResult<TokenIds> ServedModel::encode(const Prompt& prompt, bool add_special_tokens,
                                        const std::string& param) const {
  TokenIds ids;
  if (const auto* given = std::get_if<TokenIds>(&prompt)) {
    ids = *given;
  } else if (!tokenizer_) {
    return bad_field(param, fmt::format("model {} has no tokenizer: send token ids instead of text",
                                        name_), "no_tokenizer");
  } else {
    auto encoded = tokenizer_->encode(std::get<std::string>(prompt),
                                      {.add_special_tokens = add_special_tokens});
    if (!encoded.is_ok()) return bad_field(param, encoded.status().message());
    ids = std::move(*encoded);
  }
  if (ids.empty()) {
    return bad_field(param, fmt::format("'{}' must hold at least one token", param),
                     "invalid_value");
  }
  return ids;
}

ApiResult<TokenIds> ServedModel::encode_chat(const Json& messages, const Json& tools,
                                             bool add_generation_prompt) const {
  if (!tokenizer_ || !chat_template_) {
    return bad_field("messages", fmt::format("model {} has no {}: use /v1/completions", name_,
                                             tokenizer_ ? "chat template" : "tokenizer"),
                     "no_chat_template");
  }
  const auto prompt = chat_template_->render(
      messages, tools, Json{{"add_generation_prompt", add_generation_prompt}});
  if (!prompt.is_ok()) return bad_field("messages", prompt.status().message());
  auto ids = text::encode_prompt(*tokenizer_, *prompt);
  if (!ids.is_ok()) return bad_field("messages", ids.status().message());
  if (ids->empty()) return bad_field("messages", "'messages' render to an empty prompt");
  return std::move(*ids);
}

std::string ServedModel::decode(const TokenIds& ids, bool skip_special) const {
  return tokenizer_ ? tokenizer_->decode(ids, skip_special) : std::string();
}

std::string ServedModel::token_text(std::uint32_t id) const {
  if (!tokenizer_) return fmt::format("token_id:{}", id);
  const std::string_view bytes = tokenizer_->token_bytes(id);
  if (text::utf8::valid_prefix(bytes) == bytes.size()) return std::string(bytes);
  std::string text = "bytes:";
  for (const char c : bytes) {
    fmt::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<unsigned char>(c));
  }
  return text;
}

}  // namespace fulgur::router
