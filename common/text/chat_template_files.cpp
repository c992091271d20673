// Where model directories keep their chat template.
#include <fstream>
#include <sstream>

#include "common/text/chat_template.hpp"

namespace fulgur::text {
namespace {

Result<std::string> read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return error(Code::not_found, "cannot open {}", path.string());
  std::ostringstream content;
  content << file.rdbuf();
  if (!file) return error(Code::data_loss, "cannot read {}", path.string());
  return std::move(content).str();
}

/// "bos_token" and its kin: a string, or an object with "content".
SpecialTokens special_tokens_of(const Json& config) {
  SpecialTokens out;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    const Json text = value.is_object() ? value.value("content", Json()) : value;
    if (text.is_string()) out.emplace_back(key, text.get<std::string>());
  }
  return out;
}

/// The "chat_template" entry: a string, or [{"name": …, "template": …}].
Result<std::string> template_of(const Json& config, const std::string& file) {
  const Json entry = config.value("chat_template", Json());
  if (entry.is_null()) return error(Code::not_found, "{} has no chat_template", file);
  if (entry.is_string()) return entry.get<std::string>();
  if (!entry.is_array()) {
    return error(Code::data_loss, "{}: chat_template must be a string or a list", file);
  }
  for (const Json& named : entry) {
    if (!named.is_object() || named.value("name", Json()) != "default") continue;
    const Json source = named.value("template", Json());
    if (source.is_string()) return source.get<std::string>();
  }
  return error(Code::data_loss, "{}: chat_template has no template named default", file);
}

}  // namespace

Result<ChatTemplate> load_chat_template(const std::filesystem::path& model_dir) {
  const std::filesystem::path jinja_file = model_dir / "chat_template.jinja";
  const std::filesystem::path config_file = model_dir / "tokenizer_config.json";
  std::error_code ignored;
  const bool has_jinja = std::filesystem::exists(jinja_file, ignored);
  Json config = Json::object();
  if (std::filesystem::exists(config_file, ignored)) {
    FULGUR_ASSIGN_OR_RETURN(const std::string content, read_file(config_file));
    config = Json::parse(content, nullptr, false);
    if (!config.is_object()) {
      return error(Code::data_loss, "{} is not a JSON object", config_file.string());
    }
  } else if (!has_jinja) {
    return error(Code::not_found, "{} has neither chat_template.jinja nor tokenizer_config.json",
                 model_dir.string());
  }
  const std::string file = has_jinja ? jinja_file.string() : config_file.string();
  FULGUR_ASSIGN_OR_RETURN(std::string source,
                          has_jinja ? read_file(jinja_file) : template_of(config, file));
  auto parsed = ChatTemplate::parse(std::move(source), special_tokens_of(config));
  if (!parsed) return error(parsed.status().code(), "{}: {}", file, parsed.status().message());
  return parsed;
}

}  // namespace fulgur::text
