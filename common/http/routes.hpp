// Which handler answers a method and a path. Filled before the server starts, read-only after.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "common/http/server.hpp"

namespace fulgur::http {

class Routes {
 public:
  struct Route {
    Handler handler;
    RunOn run_on = RunOn::server;
  };

  void add(std::string_view method, std::string_view path, Route route);

  struct Match {
    const Route* route = nullptr;    ///< null: 404 when `allow` is empty, else 405 (or OPTIONS)
    std::string allow;                 ///< "GET, HEAD, OPTIONS" for a known path
  };
  Match find(std::string_view method, std::string_view path) const;

 private:
  using Methods = std::map<std::string, Route, std::less<>>;
  const Methods* methods_of(std::string_view path) const;

  std::map<std::string, Methods, std::less<>> exact_;
  std::map<std::string, Methods, std::less<>> prefix_;
};

}  // namespace fulgur::http
