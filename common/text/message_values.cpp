// The OpenAI shapes of messages on one side, what templates expect on the other.
#include "common/text/message_values.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

using jinja::Value;

MarkedText to_untrusted(const std::string& text, const std::string& what) {
  const std::size_t valid = utf8::valid_prefix(text);
  if (valid != text.size())
    jinja::fail("{} is not valid UTF-8 at byte {} of a string", what, valid);
  return MarkedText(text, false);
}

Value to_value(const Json& json, const std::string& what, std::size_t depth) {
  if (depth > Value::kMaxDepth) jinja::fail("{} nests deeper than {}", what, Value::kMaxDepth);
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<std::int64_t>());
    case Json::value_t::number_unsigned: {
      const auto number = json.get<std::uint64_t>();
      if (number <= std::numeric_limits<std::int64_t>::max()) {
        return Value::integer(static_cast<std::int64_t>(number));
      }
      return Value::real(static_cast<double>(number));
    }
    case Json::value_t::number_float:
      return Value::real(json.get<double>());
    case Json::value_t::string:
      return Value::string(to_untrusted(json.get_ref<const std::string&>(), what));
    case Json::value_t::array: {
      jinja::List items;
      for (const Json& item : json) items.push_back(to_value(item, what, depth + 1));
      return Value::list(std::move(items));
    }
    case Json::value_t::object: {
      jinja::Dict dict;
      for (const auto& [key, item] : json.items()) {
        dict.entries.emplace_back(to_untrusted(key, what), to_value(item, what, depth + 1));
      }
      return Value::dict(std::move(dict));
    }
    default:
      return Value::none();
  }
}

bool is_known_role(const std::string& role) {
  static constexpr std::array<std::string_view, 8> kRoles = {
      "system", "developer", "user", "assistant", "tool", "function", "ipython", "observation"};
  return std::find(kRoles.begin(), kRoles.end(), role) != kRoles.end();
}

/// The text of a content part such as {"type": "text", "text": …}; null when it is not text.
const std::string* text_of(const Json& part) {
  if (part.is_string()) return &part.get_ref<const std::string&>();
  if (!part.is_object()) return nullptr;
  const auto text = part.find("text");
  return text != part.end() && text->is_string() ? &text->get_ref<const std::string&>() : nullptr;
}

Result<std::string> join_parts(const Json& parts, std::size_t message) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string* text = text_of(parts[i]);
    if (text == nullptr) {
      return error(Code::invalid_argument, "messages[{}].content[{}] is not text", message, i);
    }
    if (i > 0) out += '\n';
    out += *text;
  }
  return out;
}

/// The function a tool message answers: its own name, or that of the call it refers to.
std::string tool_name(const Json& messages, std::size_t index) {
  const Json& message = messages[index];
  if (const auto name = message.find("name"); name != message.end() && name->is_string())
    return *name;
  const auto id = message.find("tool_call_id");
  if (id == message.end()) return "";
  for (std::size_t i = index; i-- > 0;) {
    const auto calls = messages[i].find("tool_calls");
    if (calls == messages[i].end() || !calls->is_array()) continue;
    for (const Json& call : *calls) {
      if (!call.is_object() || call.value("id", Json()) != *id) continue;
      const Json function = call.value("function", Json::object());
      if (function.is_object() && function.contains("name") && function["name"].is_string()) {
        return function["name"];
      }
    }
  }
  return "";
}

/// content for a template that goes through lists of parts.
Json typed_content(const Json& messages, std::size_t index, const Json& content) {
  if (content.is_null()) return Json::array();
  Json parts = content.is_array() ? content : Json::array({{{"type", "text"}, {"text", content}}});
  const bool is_tool = messages[index].value("role", Json()) == "tool";
  for (Json& part : parts) {
    if (part.is_string()) part = Json{{"type", "text"}, {"text", part}};
    if (is_tool && part.is_object() && !part.contains("name")) {
      part["name"] = tool_name(messages, index);
    }
  }
  return parts;
}

/// OpenAI sends the arguments of a call as JSON text; templates print them as JSON.
void parse_arguments(Json& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    if (!call.is_object()) continue;
    const auto function = call.find("function");
    Json& holder = function != call.end() && function->is_object() ? *function : call;
    const auto arguments = holder.find("arguments");
    if (arguments == holder.end() || !arguments->is_string()) continue;
    Json parsed = Json::parse(arguments->get_ref<const std::string&>(), nullptr, false);
    if (parsed.is_object()) *arguments = std::move(parsed);
  }
}

}  // namespace

Value to_value(const Json& json, const std::string& what) { return to_value(json, what, 0); }

Value messages_to_value(const Json& messages) {
  jinja::List out;
  for (const Json& message : messages) {
    Value value = to_value(message, "messages", 1);
    const auto role = message.find("role");
    if (role != message.end() && role->is_string() && is_known_role(role->get<std::string>())) {
      value.as_dict()->set(MarkedText("role", false), Value::trusted(role->get<std::string>()));
    }
    out.push_back(std::move(value));
  }
  return Value::list(std::move(out));
}

Result<Json> adapt_messages(const Json& messages, ContentFormat format) {
  if (!messages.is_array()) return error(Code::invalid_argument, "messages must be an array");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) {
      return error(Code::invalid_argument, "messages[{}] must be an object", i);
    }
  }
  Json out = messages;
  for (std::size_t i = 0; i < out.size(); ++i) {
    parse_arguments(out[i]);
    const auto content = out[i].find("content");
    if (format == ContentFormat::typed) {
      out[i]["content"] =
          typed_content(messages, i, content == out[i].end() ? Json(nullptr) : Json(*content));
    } else if (format == ContentFormat::string && content != out[i].end()) {
      if (content->is_array()) {
        FULGUR_ASSIGN_OR_RETURN(std::string text, join_parts(*content, i));
        *content = std::move(text);
      } else if (content->is_null()) {  // of a message that only calls tools
        *content = "";
      }
    }
  }
  return out;
}

}  // namespace fulgur::text
