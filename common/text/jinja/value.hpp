// Values of the template language: Python's, as far as chat templates use them. Strings carry the
// marks of MarkedText; numbers and booleans carry none. Copies are cheap and share their contents;
// only namespaces change after they are made. Not synchronised.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/status.hpp"
#include "common/text/marked_text.hpp"

namespace fulgur::text::jinja {

/// A place in the template's source, both from 1.
struct Location {
  std::size_t line = 0, column = 0;
};

/// Thrown inside the engine, caught at its edge (ChatTemplate), where it becomes a Status.
class TemplateError : public std::runtime_error {
 public:
  explicit TemplateError(const std::string& message, Code code = Code::invalid_argument)
      : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }
  Location at() const { return at_; }
  /// Sets the place once: the innermost node that knows it wins.
  void locate(Location at) {
    if (at_.line == 0) at_ = at;
  }

 private:
  Code code_;
  Location at_;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError(fmt::format(format, std::forward<Args>(args)...));
}

class Value;
class Interpreter;
struct Arguments;
using List = std::vector<Value>;

struct Undefined {
  std::string name;  ///< what was looked up, for messages
};
struct None {};

struct Sequence;
struct Dict;
struct Loop;
struct Function;

class Value {
 public:
  using Storage =
      std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const MarkedText>,
                   std::shared_ptr<const Sequence>, std::shared_ptr<Dict>,
                   std::shared_ptr<const Loop>, std::shared_ptr<const Function>>;

  Value() : storage_(Undefined{}) {}
  explicit Value(Storage storage) : storage_(std::move(storage)) {}
  static Value undefined(std::string name) { return Value(Undefined{std::move(name)}); }
  static Value none() { return in_place(None{}); }
  static Value boolean(bool value) { return in_place(value); }
  static Value integer(std::int64_t value) { return in_place(value); }
  static Value real(double value) { return in_place(value); }
  static Value string(MarkedText text) {
    return Value(std::make_shared<const MarkedText>(std::move(text)));
  }
  /// A string written by the template's author.
  static Value trusted(std::string_view text) { return string(MarkedText(text, true)); }
  static Value list(List items, bool tuple = false);
  static Value dict(Dict dict);
  static Value function(std::string name, std::function<Value(Interpreter&, Arguments&)> body);

  const Storage& storage() const { return storage_; }
  template <class T>
  const T* get() const {
    return std::get_if<T>(&storage_);
  }
  bool is_undefined() const { return get<Undefined>() != nullptr; }
  bool is_none() const { return get<None>() != nullptr; }
  bool is_number() const { return get<std::int64_t>() || get<double>() || get<bool>(); }
  /// The contents, or null when the value is of another type.
  const MarkedText* as_string() const;
  const List* as_list() const;
  Dict* as_dict() const;
  const Loop* as_loop() const;
  const Function* as_function() const;
  /// Levels of lists and dicts in the value; 0 for anything else. Bounded by kMaxDepth.
  std::size_t depth() const;
  /// False for namespaces, functions and loops and for what holds one: a namespace that held them
  /// could hold itself.
  bool is_plain() const;

  static constexpr std::size_t kMaxDepth = 300;

 private:
  /// Without the detour of a moved variant, in which GCC 12's sanitizer builds see uninitialised
  /// members.
  template <class T>
  static Value in_place(T value) {
    Value out;
    out.storage_.emplace<T>(value);
    return out;
  }

  Storage storage_;
};

struct Sequence {
  List items;
  bool tuple = false;
  std::size_t depth = 1;
  bool plain = true;
};

/// Keys in order of insertion; few enough that a scan beats a hash.
struct Dict {
  std::vector<std::pair<MarkedText, Value>> entries;
  bool is_namespace = false;
  std::size_t depth = 1;  ///< set by Value::dict
  bool plain = true;      ///< likewise

  const Value* find(std::string_view key) const;
  void set(const MarkedText& key, Value value);
};

/// The `loop` variable of one iteration.
struct Loop {
  std::shared_ptr<const Sequence> items;
  std::size_t index = 0;                                   ///< from 0
  std::size_t depth = 0;                                   ///< from 0
  std::function<Value(Interpreter&, Arguments&)> recurse;  ///< empty unless `recursive`
  std::shared_ptr<List> last_changed;                      ///< arguments of loop.changed()
};

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at `index` or called `name`; null when neither was given.
  const Value* find(std::size_t index, std::string_view name) const;
};

struct Function {
  std::string name;
  std::function<Value(Interpreter&, Arguments&)> body;
};

}  // namespace fulgur::text::jinja
