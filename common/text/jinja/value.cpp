// Construction and access; behaviour is in operations.cpp.
#include "common/text/jinja/value.hpp"

#include <algorithm>

namespace fulgur::text::jinja {
namespace {

/// Updates the shape of a container for one more item.
void account(const Value& item, std::size_t& depth, bool& plain) {
  depth = std::max(depth, item.depth() + 1);
  plain = plain && item.is_plain();
  if (depth > Value::kMaxDepth) fail("values nest deeper than {}", Value::kMaxDepth);
}

}  // namespace

Value Value::list(List items, bool tuple) {
  Sequence sequence{std::move(items), tuple};
  for (const Value& item : sequence.items) account(item, sequence.depth, sequence.plain);
  return Value(std::make_shared<const Sequence>(std::move(sequence)));
}

Value Value::dict(Dict dict) {
  dict.plain = !dict.is_namespace;
  for (const auto& [key, item] : dict.entries) account(item, dict.depth, dict.plain);
  return Value(std::make_shared<Dict>(std::move(dict)));
}

std::size_t Value::depth() const {
  if (const auto* held = get<std::shared_ptr<const Sequence>>()) return (*held)->depth;
  if (const Dict* dict = as_dict()) return dict->depth;
  return 0;
}

bool Value::is_plain() const {
  if (const auto* held = get<std::shared_ptr<const Sequence>>()) return (*held)->plain;
  if (const Dict* dict = as_dict()) return dict->plain;
  return as_loop() == nullptr && as_function() == nullptr;
}

Value Value::function(std::string name, std::function<Value(Interpreter&, Arguments&)> body) {
  return Value(std::make_shared<const Function>(Function{std::move(name), std::move(body)}));
}

const MarkedText* Value::as_string() const {
  const auto* held = get<std::shared_ptr<const MarkedText>>();
  return held ? held->get() : nullptr;
}

const List* Value::as_list() const {
  const auto* held = get<std::shared_ptr<const Sequence>>();
  return held ? &(*held)->items : nullptr;
}

Dict* Value::as_dict() const {
  const auto* held = get<std::shared_ptr<Dict>>();
  return held ? held->get() : nullptr;
}

const Loop* Value::as_loop() const {
  const auto* held = get<std::shared_ptr<const Loop>>();
  return held ? held->get() : nullptr;
}

const Function* Value::as_function() const {
  const auto* held = get<std::shared_ptr<const Function>>();
  return held ? held->get() : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.text() == key) return &value;
  }
  return nullptr;
}

void Dict::set(const MarkedText& key, Value value) {
  for (auto& [name, held] : entries) {
    if (name.text() == key.text()) {
      held = std::move(value);
      return;
    }
  }
  entries.emplace_back(key, std::move(value));
}

const Value* Arguments::find(std::size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

}  // namespace fulgur::text::jinja
