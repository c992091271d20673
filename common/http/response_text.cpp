#include "common/http/response_text.hpp"

#include <fmt/format.h>

#include <array>
#include <iterator>
#include <utility>

namespace fulgur::http {
namespace {

constexpr std::array<std::pair<int, std::string_view>, 20> kReasons{{
    {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"}, {304, "Not Modified"},
    {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"},
    {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"},
    {413, "Content Too Large"}, {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"}, {499, "Client Closed Request"},
    {500, "Internal Server Error"}, {501, "Not Implemented"}, {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
}};

void append_clean(std::string& out, std::string_view value) {
  for (const char c : value) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) out.push_back(c);
  }
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  append_clean(out, name);
  out += ": ";
  append_clean(out, value);
  out += "\r\n";
}

}  // namespace

std::string_view reason_phrase(int status) {
  for (const auto& [code, reason] : kReasons) {
    if (code == status) return reason;
  }
  return "Unknown";
}

std::string format_head(const ResponseHead& head) {
  std::string out = fmt::format("HTTP/1.{} {} {}\r\n", head.http_1_1 ? 1 : 0, head.status,
                                reason_phrase(head.status));
  if (!head.content_type.empty()) append_header(out, "Content-Type", head.content_type);
  for (const auto& header : *head.headers) append_header(out, header.name, header.value);
  if (head.chunked) {
    out += "Transfer-Encoding: chunked\r\n";
  } else if (head.has_length && head.status != 204 && head.status != 304) {
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", head.content_length);
  }
  if (!head.keep_alive) {
    out += "Connection: close\r\n";
  } else if (!head.http_1_1) {
    out += "Connection: keep-alive\r\n";
  }
  out += "\r\n";
  return out;
}

void append_chunk(std::string& out, std::string_view bytes) {
  fmt::format_to(std::back_inserter(out), "{:x}\r\n", bytes.size());
  out += bytes;
  out += "\r\n";
}

}  // namespace fulgur::http
