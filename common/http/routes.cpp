#include "common/http/routes.hpp"

#include <utility>

namespace fulgur::http {

void Routes::add(std::string_view method, std::string_view path, Route route) {
  const bool is_prefix = path.ends_with('*');
  if (is_prefix) path.remove_suffix(1);
  auto& table = is_prefix ? prefix_ : exact_;
  table[std::string(path)][std::string(method)] = std::move(route);
}

const Routes::Methods* Routes::methods_of(std::string_view path) const {
  if (const auto found = exact_.find(path); found != exact_.end()) return &found->second;
  const Methods* best = nullptr;
  std::size_t longest = 0;
  for (const auto& [prefix, methods] : prefix_) {
    if (path.starts_with(prefix) && prefix.size() >= longest) {
      best = &methods;
      longest = prefix.size();
    }
  }
  return best;
}

Routes::Match Routes::find(std::string_view method, std::string_view path) const {
  Match match;
  const Methods* methods = methods_of(path);
  if (methods == nullptr) return match;
  for (const auto& [name, route] : *methods) {
    match.allow += name + ", ";
    if (name == "GET") match.allow += "HEAD, ";
  }
  match.allow += "OPTIONS";
  const auto found = methods->find(method == "HEAD" ? std::string_view("GET") : method);
  if (found != methods->end()) match.route = &found->second;
  return match;
}

}  // namespace fulgur::http
