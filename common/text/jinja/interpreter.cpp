// Statements, scopes and macros; expressions are in evaluation.cpp.
#include "common/text/jinja/interpreter.hpp"

#include "common/text/jinja/interpreter_guards.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"

namespace fulgur::text::jinja {

MarkedText Interpreter::render(const Block& block, Variables globals) {
  frames_.assign(1, Frame{std::move(globals), false});
  MarkedText out;
  output_ = &out;
  execute(block);
  return out;
}

void Interpreter::charge(std::size_t steps) {
  steps_ += steps;
  if (steps_ <= limits_.steps) return;
  throw TemplateError(fmt::format("rendering takes more than {} steps", limits_.steps),
                      Code::resource_exhausted);
}

void Interpreter::charge_text(std::size_t bytes) {
  if (bytes > limits_.text_bytes) {
    throw TemplateError(fmt::format("text exceeds {} bytes", limits_.text_bytes),
                        Code::resource_exhausted);
  }
  charge(bytes / 64);
}

void Interpreter::charge_value(const Value& value) {
  if (const MarkedText* text = value.as_string()) charge_text(text->size());
  if (const List* list = value.as_list()) charge(list->size());
  if (const Dict* dict = value.as_dict()) charge(dict->entries.size());
}

// --- scopes
// ---------------------------------------------------------------------------------------

const Value* Interpreter::lookup(const std::string& name) const {
  const auto find = [&](const Frame& frame) -> const Value* {
    for (const auto& [key, value] : frame.variables) {
      if (key == name) return &value;
    }
    return nullptr;
  };
  for (auto frame = frames_.rbegin(); frame != frames_.rend(); ++frame) {
    if (const Value* found = find(*frame)) return found;
    if (frame->is_macro) return find(frames_.front());
  }
  return nullptr;
}

Interpreter::Variables Interpreter::visible_locals() const {
  Variables out;
  std::size_t first = frames_.size();
  while (first > 1 && !frames_[first - 1].is_macro) --first;
  if (first > 1) --first;  // the macro's own frame
  for (std::size_t i = std::max<std::size_t>(first, 1); i < frames_.size(); ++i) {
    for (const auto& [name, value] : frames_[i].variables) {
      std::erase_if(out, [&](const auto& held) { return held.first == name; });
      out.emplace_back(name, value);
    }
  }
  return out;
}

void Interpreter::assign(const std::string& name, Value value) {
  for (auto& [key, held] : frames_.back().variables) {
    if (key == name) {
      held = std::move(value);
      return;
    }
  }
  frames_.back().variables.emplace_back(name, std::move(value));
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (!target.attribute.empty()) {
    const Value* held = lookup(target.names[0]);
    Dict* space = held ? held->as_dict() : nullptr;
    if (space == nullptr || !space->is_namespace) fail("{} is not a namespace", target.names[0]);
    if (!value.is_plain()) fail("a namespace cannot hold a {}", type_name(value));
    // The namespace counts as deep as the deepest value it ever held.
    space->depth = std::max(space->depth, value.depth() + 1);
    space->set(MarkedText(target.attribute, true), value);
    return;
  }
  if (!target.unpack) return assign(target.names[0], value);
  const List items = items_of(value);
  if (items.size() != target.names.size()) {
    fail("cannot unpack {} values into {} names", items.size(), target.names.size());
  }
  for (std::size_t i = 0; i < items.size(); ++i) assign(target.names[i], items[i]);
}

// --- statements
// -----------------------------------------------------------------------------------

Interpreter::Flow Interpreter::execute(const Block& block) {
  for (const Statement& statement : block) {
    const Flow flow = execute(statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  const DepthGuard guard(*this);
  try {
    charge(1);
    return std::visit([&](const auto& node) { return run(node); }, statement.node);
  } catch (TemplateError& fault) {
    fault.locate(statement.at);
    throw;
  }
}

void Interpreter::write(const MarkedText& text) {
  charge_text(output_->size() + text.size() > limits_.text_bytes ? limits_.text_bytes + 1
                                                                 : text.size());
  output_->append(text);
}

MarkedText Interpreter::capture(const Block& block) {
  MarkedText text;
  MarkedText* const outer = std::exchange(output_, &text);
  execute(block);
  output_ = outer;
  return text;
}

Interpreter::Flow Interpreter::run(const Data& data) {
  write(MarkedText(data.text, true));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Print& print) {
  write(to_text(evaluate(*print.value)));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Set& set) {
  if (set.value) {
    assign(set.target, evaluate(*set.value));
    return Flow::normal;
  }
  MarkedText text;
  {
    const FrameGuard frame(*this);
    text = capture(set.body);
  }
  assign(set.target, apply(set.filters, Value::string(std::move(text))));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const If& branches) {
  for (const auto& [condition, body] : branches.branches) {
    if (!condition || is_true(evaluate(*condition))) return execute(body);
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const For& loop) {
  loop_over(loop, evaluate(*loop.iterable), 0);
  return Flow::normal;
}

List Interpreter::filtered_items(const For& loop, const Value& iterable) {
  List items = items_of(iterable);
  charge(items.size());
  if (!loop.condition) return items;
  List kept;
  for (Value& item : items) {
    const FrameGuard frame(*this);
    assign(loop.target, item);
    if (is_true(evaluate(*loop.condition))) kept.push_back(std::move(item));
  }
  return kept;
}

void Interpreter::loop_over(const For& loop, const Value& iterable, std::size_t depth) {
  const auto items = std::make_shared<const Sequence>(Sequence{filtered_items(loop, iterable)});
  const auto changed = std::make_shared<List>();
  if (items->items.empty()) {
    const FrameGuard frame(*this);
    execute(loop.otherwise);
    return;
  }
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    const FrameGuard frame(*this);
    Loop state{items, i, depth, nullptr, changed};
    if (loop.recursive) {
      state.recurse = [&loop, depth](Interpreter& interpreter, Arguments& arguments) {
        const Value* nested = arguments.find(0, "iterable");
        if (nested == nullptr) fail("loop() needs what to loop over");
        MarkedText text;
        MarkedText* const outer = std::exchange(interpreter.output_, &text);
        interpreter.loop_over(loop, *nested, depth + 1);
        interpreter.output_ = outer;
        return Value::string(std::move(text));
      };
    }
    assign("loop", Value(std::make_shared<const Loop>(std::move(state))));
    assign(loop.target, items->items[i]);
    if (execute(loop.body) == Flow::leave_loop) break;
  }
}

Interpreter::Flow Interpreter::run(const FilterBlock& block) {
  MarkedText text;
  {
    const FrameGuard frame(*this);
    text = capture(block.body);
  }
  write(to_text(apply(block.filters, Value::string(std::move(text)))));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const With& with) {
  std::vector<Value> values;
  for (const auto& [target, value] : with.bindings) values.push_back(evaluate(*value));
  const FrameGuard frame(*this);
  for (std::size_t i = 0; i < values.size(); ++i) assign(with.bindings[i].first, values[i]);
  return execute(with.body);
}

// --- macros
// ---------------------------------------------------------------------------------------

Interpreter::Flow Interpreter::run(const Macro& macro) {
  assign(macro.name, make_macro(macro));
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const CallBlock& block) {
  const Value caller = make_macro(block.caller);
  write(to_text(eval_call(std::get<Call>(block.call->node), &caller)));
  return Flow::normal;
}

Value Interpreter::make_macro(const Macro& macro) {
  return Value::function(macro.name, [&macro, captured = visible_locals()](Interpreter& interpreter,
                                                                           Arguments& arguments) {
    return interpreter.call_macro(macro, captured, arguments);
  });
}

Value Interpreter::call_macro(const Macro& macro, const Variables& captured, Arguments& arguments) {
  const FrameGuard frame(*this, captured);
  bind_parameters(macro, arguments);
  return Value::string(capture(macro.body));
}

void Interpreter::bind_parameters(const Macro& macro, Arguments& arguments) {
  for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (const Value* given = arguments.find(i, parameter.name)) {
      assign(parameter.name, *given);
    } else {
      assign(parameter.name,
             parameter.fallback ? evaluate(*parameter.fallback) : Value::undefined(parameter.name));
    }
  }
  List rest;
  for (std::size_t i = macro.parameters.size(); i < arguments.positional.size(); ++i) {
    rest.push_back(arguments.positional[i]);
  }
  Dict named;
  for (const auto& [name, value] : arguments.named) {
    const bool is_parameter =
        std::any_of(macro.parameters.begin(), macro.parameters.end(),
                    [&](const Parameter& parameter) { return parameter.name == name; });
    if (name == "caller") {
      assign("caller", value);
    } else if (!is_parameter) {
      named.set(MarkedText(name, true), value);
    }
  }
  assign("varargs", Value::list(std::move(rest), true));
  assign("kwargs", Value::dict(std::move(named)));
}

}  // namespace fulgur::text::jinja
