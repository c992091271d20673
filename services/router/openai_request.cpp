#include "services/router/openai_request.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "common/base/rng.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::router {
namespace {

constexpr std::size_t kStopsMax = 16;
constexpr std::size_t kStopBytesMax = 256;
constexpr std::size_t kStopIdsMax = 256;
constexpr std::size_t kBiasMax = 1024;
constexpr float kTopPLeast = 1e-6F;  // OpenAI takes 0 as "only the likeliest token"
static_assert(kBiasMax <= wire::kMaxLogitBias && kStopIdsMax <= wire::kMaxStopIds);

void read_penalties(FieldReader& fields, GenerationRequest& request) {
  wire::SamplingParams& sampling = request.sampling;
  const auto read = [&fields](std::string_view name, double least, double most, float& into) {
    if (const auto value = fields.number(name, least, most)) into = static_cast<float>(*value);
  };
  read("temperature", 0, 2, sampling.temperature);
  read("top_p", 0, 1, sampling.top_p);
  sampling.top_p = std::max(sampling.top_p, kTopPLeast);
  read("min_p", 0, 1, sampling.min_p);
  read("presence_penalty", -2, 2, sampling.presence_penalty);
  read("frequency_penalty", -2, 2, sampling.frequency_penalty);
  read("repetition_penalty", 0.01, 10, sampling.repetition_penalty);
}

void read_logit_bias(FieldReader& fields, const RequestLimits& limits,
                     GenerationRequest& request) {
  const Json* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kBiasMax) {
    fields.fail("logit_bias", fmt::format("'logit_bias' has more than {} entries", kBiasMax),
                "invalid_value");
    return;
  }
  for (const auto& [key, value] : biases->items()) {
    std::uint32_t id = 0;
    const auto [end, failure] = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool is_id = failure == std::errc() && end == key.data() + key.size() && id < limits.vocab;
    if (!is_id || !value.is_number() || std::abs(value.get<double>()) > 100) {
      fields.fail("logit_bias", fmt::format("Invalid value for 'logit_bias': {}: {} is not a token "
                                            "id below {} with a bias between -100 and 100",
                                            key, value.dump(), limits.vocab), "invalid_value");
      return;
    }
    request.sampling.logit_bias.emplace_back(id, value.get<float>());
  }
}

void read_stop(FieldReader& fields, GenerationRequest& request) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  const Json list = stop->is_string() ? Json::array({*stop}) : *stop;
  const bool fits = list.is_array() && list.size() <= kStopsMax &&
                    std::ranges::all_of(list, [](const Json& item) {
                      return item.is_string() && !item.get_ref<const std::string&>().empty() &&
                             item.get_ref<const std::string&>().size() <= kStopBytesMax;
                    });
  if (!fits) {
    fields.fail("stop", fmt::format("Invalid value for 'stop': expected a string or a list of at "
                                    "most {} strings of 1 to {} bytes", kStopsMax, kStopBytesMax),
                "invalid_value");
    return;
  }
  for (const Json& item : list) request.stop.push_back(item.get<std::string>());
}

void read_lengths(FieldReader& fields, const RequestLimits& limits, GenerationRequest& request) {
  const auto most = static_cast<std::int64_t>(
      std::min<std::uint64_t>(limits.context_max, wire::kMaxTokens));
  const std::int64_t least = request.echo ? 0 : 1;
  for (const std::string_view name : {"max_tokens", "max_completion_tokens"}) {
    if (name == "max_completion_tokens" && !request.chat) continue;
    const Json* given = fields.find(name);
    if (given != nullptr && given->is_number_integer() && given->get<double>() > double(most)) {
      fields.fail(name, fmt::format("This model's maximum context length is {} tokens; '{}' asks "
                                    "for {}", limits.context_max, name, given->dump()),
                  "context_length_exceeded");
    } else if (const auto value = fields.integer(name, least, most)) {
      request.max_tokens = static_cast<std::uint32_t>(*value);
    }
  }
  if (const auto value = fields.integer("min_tokens", 0, most)) {
    request.min_tokens = static_cast<std::uint32_t>(*value);
  }
  if (request.max_tokens && request.min_tokens > *request.max_tokens) {
    fields.fail("min_tokens", "'min_tokens' is larger than 'max_tokens'", "invalid_value");
  }
}

void read_stream(FieldReader& fields, GenerationRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const Json* options = fields.object("stream_options");
  if (options == nullptr) return;
  if (!request.stream) {
    fields.fail("stream_options", "'stream_options' is only allowed when 'stream' is true",
                "invalid_value");
    return;
  }
  FieldReader inner(*options, "stream_options.");
  request.include_usage = inner.boolean("include_usage").value_or(false);
  if (!inner.ok()) fields.fail(inner.error());
}

/// Fields that mean the same in both APIs.
void read_common(FieldReader& fields, const RequestLimits& limits, GenerationRequest& request) {
  request.sampling = limits.defaults;
  request.model = fields.string("model").value_or("");
  read_stream(fields, request);
  read_penalties(fields, request);
  if (const auto k = fields.integer("top_k", -1, UINT32_MAX)) {
    request.sampling.top_k =
        static_cast<std::uint32_t>(std::clamp<std::int64_t>(*k, 0, std::int64_t{limits.vocab}));
  }
  read_logit_bias(fields, limits, request);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) {
    request.seed = static_cast<std::uint64_t>(*seed);
  }
  request.n = static_cast<std::uint32_t>(fields.integer("n", 1, limits.choices_max).value_or(1));
  read_stop(fields, request);
  if (auto ids = fields.token_ids("stop_token_ids", limits.vocab, kStopIdsMax)) {
    request.stop_token_ids = std::move(*ids);
  }
  request.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.skip_special = fields.boolean("skip_special_tokens").value_or(true);
  request.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  read_lengths(fields, limits, request);
}

void read_completion_logprobs(FieldReader& fields, GenerationRequest& request) {
  if (const auto count = fields.integer("logprobs", 0, wire::kMaxTopLogprobs)) {
    request.logprobs = true;
    request.top_logprobs = static_cast<std::uint8_t>(*count);
  }
  request.prompt_logprobs = request.echo && request.logprobs;
}

void read_chat_logprobs(FieldReader& fields, GenerationRequest& request) {
  request.logprobs = fields.boolean("logprobs").value_or(false);
  const auto count = fields.integer("top_logprobs", 0, wire::kMaxTopLogprobs);
  if (!count) return;
  if (!request.logprobs && *count > 0) {
    fields.fail("top_logprobs", "'top_logprobs' needs 'logprobs' to be true", "invalid_value");
  }
  request.top_logprobs = static_cast<std::uint8_t>(*count);
}

bool is_integer_list(const Json& value) {
  return value.is_array() && !value.empty() && value.front().is_number();
}

void read_prompts(FieldReader& fields, const RequestLimits& limits, GenerationRequest& request) {
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) {
    fields.fail("prompt", "Missing required parameter: 'prompt'", "missing_required_parameter");
    return;
  }
  const Json list =
      prompt->is_string() || is_integer_list(*prompt) ? Json::array({*prompt}) : *prompt;
  if (!list.is_array() || list.empty() || list.size() > limits.choices_max) {
    fields.fail("prompt", fmt::format("Invalid value for 'prompt': expected a string, token ids, or "
                                      "a list of 1 to {} of them", limits.choices_max),
                "invalid_value");
    return;
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_string()) {
      request.prompts.emplace_back(list[i].get<std::string>());
      continue;
    }
    const std::string name = list.size() == 1 ? "prompt" : fmt::format("prompt[{}]", i);
    auto ids = read_token_ids(list[i], name, limits.vocab, wire::kMaxTokens);
    if (!ids.is_ok()) return fields.fail(ids.error());
    request.prompts.emplace_back(std::move(*ids));
  }
}

void refuse_unsupported_completion(FieldReader& fields, const GenerationRequest& request) {
  if (!fields.string("suffix").value_or("").empty()) {
    fields.fail("suffix", "'suffix' is not supported", "unsupported_value");
  }
  if (fields.integer("best_of", 1, 128).value_or(request.n) != request.n) {
    fields.fail("best_of", "'best_of' other than 'n' is not supported", "unsupported_value");
  }
}

void refuse_unsupported_chat(FieldReader& fields) {
  if (const Json* format = fields.object("response_format")) {
    FieldReader inner(*format, "response_format.");
    if (inner.string("type").value_or("text") != "text") {
      inner.fail("type", "only the response format 'text' is supported", "unsupported_value");
    }
    if (!inner.ok()) fields.fail(inner.error());
  }
  const Json* choice = fields.find("tool_choice");
  if (choice != nullptr && *choice != "auto" && *choice != "none") {
    fields.fail("tool_choice", "'tool_choice' other than 'auto' and 'none' is not supported",
                "unsupported_value");
  }
}

}  // namespace

Json read_tools(FieldReader& fields) {
  const Json* tools = fields.find("tools");
  if (tools == nullptr) return nullptr;
  const bool fits = tools->is_array() && std::ranges::all_of(*tools, [](const Json& tool) {
                      return tool.is_object();
                    });
  if (!fits) {
    fields.fail("tools", "Invalid type for 'tools': expected a list of objects", "invalid_type");
    return nullptr;
  }
  const Json* choice = fields.find("tool_choice");
  const bool wanted = choice == nullptr || *choice != "none";
  return wanted && !tools->empty() ? *tools : Json(nullptr);
}

namespace {

constexpr std::array<std::string_view, 6> kRoles{"system", "developer", "user",
                                                 "assistant", "tool", "function"};

/// Checks a content: a string, or a list of text parts. What becomes of parts is the template's
/// business (ServedModel::encode_chat).
std::optional<ApiError> check_content(const Json& content, const std::string& where) {
  if (content.is_string()) return {};
  if (!content.is_array()) {
    return bad_field(where, fmt::format("Invalid type for '{}': expected a string or a list of "
                                        "content parts, but got {}", where, kind_of(content)),
                     "invalid_type");
  }
  for (std::size_t i = 0; i < content.size(); ++i) {
    const std::string part = fmt::format("{}[{}]", where, i);
    if (!content[i].is_object()) {
      return bad_field(part, fmt::format("Invalid type for '{}': expected an object", part),
                       "invalid_type");
    }
    FieldReader fields(content[i], part + ".");
    const std::string type = fields.string("type").value_or("");
    if (fields.ok() && type != "text") {
      fields.fail("type", fmt::format("'{}.type' is '{}', but only 'text' is supported", part, type),
                  "unsupported_value");
    }
    const bool has_text = fields.string("text").has_value();
    if (fields.ok() && !has_text) {
      fields.fail("text", fmt::format("Missing required parameter: '{}.text'", part),
                  "missing_required_parameter");
    }
    if (!fields.ok()) return fields.error();
  }
  return {};
}

ApiResult<Json> read_message(const Json& message, const std::string& where) {
  if (!message.is_object()) {
    return bad_field(where, fmt::format("Invalid type for '{}': expected an object, but got {}",
                                        where, kind_of(message)), "invalid_type");
  }
  FieldReader fields(message, where + ".");
  const std::string role = fields.string("role").value_or("");
  if (fields.ok() && std::ranges::find(kRoles, role) == kRoles.end()) {
    fields.fail("role", fmt::format("Invalid value for '{}.role': '{}'", where, role),
                "invalid_value");
  }
  if (!fields.ok()) return fields.error();
  Json result = message;
  if (role == "developer") result["role"] = "system";
  const Json* content = fields.find("content");
  if (content == nullptr) {
    if (role != "assistant") {
      return bad_field(where + ".content",
                       fmt::format("Missing required parameter: '{}.content'", where),
                       "missing_required_parameter");
    }
    result["content"] = fields.find("tool_calls") != nullptr ? Json(nullptr) : Json("");
    return result;
  }
  if (const auto wrong = check_content(*content, where + ".content")) return *wrong;
  return result;
}

}  // namespace

std::uint64_t choice_seed(std::uint64_t seed, std::uint32_t index) {
  return index == 0 ? seed : random_bits(seed, index);
}

ApiResult<Json> normalize_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return bad_field("messages", "Invalid value for 'messages': expected a non-empty list",
                     messages.is_array() ? "invalid_value" : "invalid_type");
  }
  Json result = Json::array();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    auto message = read_message(messages[i], fmt::format("messages[{}]", i));
    if (!message.is_ok()) return message.error();
    result.push_back(std::move(*message));
  }
  return result;
}

ApiResult<GenerationRequest> parse_completion(const Json& body, const RequestLimits& limits) {
  constexpr std::uint32_t kDefaultMaxTokens = 16;  // OpenAI's
  GenerationRequest request;
  FieldReader fields(body);
  request.echo = fields.boolean("echo").value_or(false);
  read_common(fields, limits, request);
  read_completion_logprobs(fields, request);
  request.add_special_tokens = fields.boolean("add_special_tokens").value_or(true);
  if (!request.max_tokens) request.max_tokens = std::max(kDefaultMaxTokens, request.min_tokens);
  read_prompts(fields, limits, request);
  refuse_unsupported_completion(fields, request);
  if (fields.ok() && request.choices() > limits.choices_max) {
    fields.fail("n", fmt::format("more than {} prompts times 'n'", limits.choices_max),
                "invalid_value");
  }
  if (!fields.ok()) return fields.error();
  return request;
}

ApiResult<GenerationRequest> parse_chat(const Json& body, const RequestLimits& limits) {
  GenerationRequest request;
  request.chat = true;
  FieldReader fields(body);
  read_common(fields, limits, request);
  read_chat_logprobs(fields, request);
  request.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  request.tools = read_tools(fields);
  refuse_unsupported_chat(fields);
  const Json* messages = fields.find("messages");
  if (messages == nullptr) {
    fields.fail("messages", "Missing required parameter: 'messages'", "missing_required_parameter");
  }
  if (!fields.ok()) return fields.error();
  auto normal = normalize_messages(*messages);
  if (!normal.is_ok()) return normal.error();
  request.messages = std::move(*normal);
  return request;
}

}  // namespace fulgur::router
