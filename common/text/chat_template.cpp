// The edge of the template engine: its exceptions end here, as Status.
#include "common/text/chat_template.hpp"

#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/parser.hpp"
#include "common/text/message_values.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

constexpr std::size_t kMaxSourceBytes = 1U << 20U;
constexpr const char* kProbe = "fulgur probe";
constexpr jinja::Limits kProbeLimits{.steps = 200'000, .text_bytes = 4U << 20U};

Status to_status(const jinja::TemplateError& fault) {
  if (fault.at().line == 0) return {fault.code(), fmt::format("chat template: {}", fault.what())};
  return {fault.code(), fmt::format("chat template line {} column {}: {}", fault.at().line,
                                    fault.at().column, fault.what())};
}

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Block block;
};

Result<ChatTemplate> ChatTemplate::parse(std::string source, SpecialTokens special_tokens) {
  if (source.size() > kMaxSourceBytes) {
    return error(Code::invalid_argument, "chat template is longer than {} bytes", kMaxSourceBytes);
  }
  if (const std::size_t valid = utf8::valid_prefix(source); valid != source.size()) {
    return error(Code::invalid_argument, "chat template is not valid UTF-8 at byte {}", valid);
  }
  ChatTemplate out;
  try {
    out.parsed_ = std::make_shared<const Parsed>(Parsed{jinja::parse_template(source)});
  } catch (const jinja::TemplateError& fault) {
    return to_status(fault);
  }
  out.source_ = std::make_shared<const std::string>(std::move(source));
  out.special_tokens_ = std::move(special_tokens);
  out.content_format_ = out.probe_content_format();
  return out;
}

Result<RenderedPrompt> ChatTemplate::render(const Json& messages, const Json& tools,
                                            const Json& extra,
                                            std::optional<Nanoseconds> wall_now) const {
  if (!extra.is_object())
    return error(Code::invalid_argument, "template variables must be an object");
  if (!tools.is_null() && !tools.is_array()) {
    return error(Code::invalid_argument, "tools must be an array");
  }
  FULGUR_ASSIGN_OR_RETURN(const Json adapted, adapt_messages(messages, content_format_));
  return render_adapted(adapted, tools, extra, wall_now.value_or(RealClock().wall_now()), false);
}

Result<RenderedPrompt> ChatTemplate::render_adapted(const Json& messages, const Json& tools,
                                                    const Json& extra, Nanoseconds wall_now,
                                                    bool is_probe) const {
  try {
    // The first variable of a name is the one that templates see.
    jinja::Interpreter::Variables variables;
    for (const auto& [name, text] : special_tokens_) {
      variables.emplace_back(name, jinja::Value::trusted(text));
    }
    variables.emplace_back("messages", messages_to_value(messages));
    variables.emplace_back("tools", to_value(tools, "tools"));
    for (const auto& [name, value] : extra.items())
      variables.emplace_back(name, to_value(value, name));
    variables.emplace_back("add_generation_prompt", jinja::Value::boolean(false));
    variables.emplace_back("documents", jinja::Value::none());
    jinja::Interpreter interpreter(is_probe ? kProbeLimits : jinja::Limits{}, wall_now);
    return interpreter.render(parsed_->block, std::move(variables));
  } catch (const jinja::TemplateError& fault) {
    return to_status(fault);
  }
}

ContentFormat ChatTemplate::probe_content_format() const {
  const auto render_with = [&](const Json& content) {
    const Json messages = Json::array({{{"role", "user"}, {"content", content}}});
    auto prompt = render_adapted(messages, nullptr, Json::object(), 0, true);
    return prompt ? prompt->text() : std::string();
  };
  const std::string from_string = render_with(kProbe);
  const std::string from_parts = render_with(Json::array({{{"type", "text"}, {"text", kProbe}}}));
  if (from_string.find(kProbe) != std::string::npos) {
    // A template that prints the list itself does not understand it.
    return from_parts == from_string ? ContentFormat::any : ContentFormat::string;
  }
  // One that shows neither (it raises on a lone message, say) is taken for one of the old kind.
  const bool takes_parts = from_parts.find(kProbe) != std::string::npos;
  return takes_parts ? ContentFormat::typed : ContentFormat::string;
}

Result<std::vector<std::uint32_t>> encode_prompt(const Tokenizer& tokenizer,
                                                 const RenderedPrompt& prompt) {
  return tokenizer.encode(prompt);
}

}  // namespace fulgur::text
