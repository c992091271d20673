// Response heads and chunks as bytes. Requests need a careful parser (Beast's); responses do not.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/http/request.hpp"

namespace fulgur::http {

/// "Not Found"; "Unknown" for a status without a name.
std::string_view reason_phrase(int status);

struct ResponseHead {
  int status = 200;
  std::string_view content_type;       ///< empty: no Content-Type
  const std::vector<Header>* headers;  ///< control characters in values are dropped
  bool http_1_1 = true;
  bool keep_alive = true;
  bool chunked = false;
  std::size_t content_length = 0;  ///< unless chunked
  bool has_length = true;
};

std::string format_head(const ResponseHead& head);

/// Appends `bytes` (not empty) as one chunk.
void append_chunk(std::string& out, std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace fulgur::http
