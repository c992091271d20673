#include "bench/serve/token_stream.hpp"

#include <nlohmann/json.hpp>

namespace fulgur::bench::serve {
namespace {

using nlohmann::json;

constexpr std::size_t kEventBytesMax = 1 << 20;

std::uint64_t tokens_in(const json& chunk) {
  const auto choices = chunk.find("choices");
  if (choices == chunk.end() || !choices->is_array()) return 0;
  std::uint64_t count = 0;
  for (const json& choice : *choices) {
    if (!choice.is_object()) continue;
    const auto ids = choice.find("token_ids");
    const auto text = choice.find("text");
    if (ids != choice.end() && ids->is_array()) {
      count += ids->size();
    } else if (text != choice.end() && text->is_string() && *text != "") {
      ++count;
    }
  }
  return count;
}

std::uint64_t completion_tokens_in(const json& chunk) {
  const auto usage = chunk.find("usage");
  if (usage == chunk.end() || !usage->is_object()) return 0;
  const auto count = usage->find("completion_tokens");
  return count != usage->end() && count->is_number_unsigned() ? count->get<std::uint64_t>() : 0;
}

std::string error_text(const json& error) {
  const auto message = error.is_object() ? error.find("message") : error.end();
  return error.is_object() && message != error.end() && message->is_string()
             ? message->get<std::string>()
             : error.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

TokenStream::TokenStream() : reader_([this](std::string_view data) { event(data); }) {}

bool TokenStream::feed(std::string_view bytes, Nanoseconds now) {
  now_ = now;
  bytes_since_event_ += bytes.size();
  reader_.feed(bytes);
  if (bytes_since_event_ > kEventBytesMax && failure_.empty()) {
    failure_ = "an event is larger than 1 MiB";
  }
  return failure_.empty();
}

void TokenStream::event(std::string_view data) {
  bytes_since_event_ = 0;
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  const json chunk = json::parse(data, nullptr, false);
  if (!chunk.is_object()) {
    if (failure_.empty()) failure_ = "an event is not a JSON object";
    return;
  }
  if (const auto error = chunk.find("error"); error != chunk.end() && failure_.empty()) {
    failure_ = error_text(*error);
  }
  if (const auto count = tokens_in(chunk); count > 0) note_tokens(count);
  if (const auto count = completion_tokens_in(chunk); count > 0) usage_tokens_ = count;
}

void TokenStream::note_tokens(std::uint64_t count) {
  if (counted_tokens_ == 0) {
    first_token_ = now_;
  } else {
    gaps_.push_back(now_ - last_token_);
  }
  last_token_ = now_;
  counted_tokens_ += count;
}

}  // namespace fulgur::bench::serve
