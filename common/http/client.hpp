// A blocking HTTP/1.1 POST for machine-to-machine reports: one connection a request, bounded in
// time by its caller. No TLS, no redirects, no proxies.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/base/status.hpp"

namespace fulgur::http {

/// "http://host[:port][/path]".
struct BaseUrl {
  std::string host;
  std::uint16_t port = 80;
  std::string path;  ///< without a slash at its end; empty for the root
};

/// invalid_argument says what is wrong with `text`.
Result<BaseUrl> parse_base_url(std::string_view text);

struct Answer {
  int status = 0;
  std::string body;  ///< at most 64 KiB
};

/// What a caller says when it is asked whether to wait for an answer any longer.
enum class Patience {
  wait,
  give_up,  ///< but for a resolver that hangs: it is waited for, since it cannot be stopped
  abandon,  ///< the process ends: leave even that behind
};

/// Posts `json` to base.path + path. unavailable when nobody answers, or not in HTTP;
/// deadline_exceeded once `patience` ends (it is asked about every 20 ms).
Result<Answer> post_json(const BaseUrl& base, std::string_view path, std::string json,
                         const std::function<Patience()>& patience);

}  // namespace fulgur::http
