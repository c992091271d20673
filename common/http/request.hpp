// One HTTP request as its handler sees it. A plain value: move it to whichever thread answers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur::http {

struct Header {
  std::string name;
  std::string value;
  friend bool operator==(const Header&, const Header&) = default;
};

struct Request {
  std::string method;  ///< "GET", "POST", …; a HEAD request reaches GET handlers as "HEAD"
  std::string target;  ///< as sent, e.g. "/v1/models/a%20b?limit=3"
  std::string path;    ///< percent-decoded, without the query
  std::string query;   ///< what follows '?', as sent
  std::vector<Header> headers;
  std::string body;
  std::string peer;    ///< "127.0.0.1:51234"

  /// Value of the first header of that name (case-insensitive); empty when absent.
  std::string_view header(std::string_view name) const;
};

/// Splits a request target into decoded path and raw query; false when it does not start with '/'
/// or its percent-encoding is broken.
bool parse_target(std::string_view target, std::string& path, std::string& query);

}  // namespace fulgur::http
