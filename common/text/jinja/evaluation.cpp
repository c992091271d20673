// Expressions. A missing attribute or item is an undefined value; using one further is an error
// that names it.
#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/interpreter_guards.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"

namespace fulgur::text::jinja {
namespace {

Value loop_member(const Loop& loop, const std::string& name) {
  const List& items = loop.items->items;
  const auto count = [](std::size_t n) { return Value::integer(static_cast<std::int64_t>(n)); };
  const std::size_t size = items.size();
  if (name == "index") return count(loop.index + 1);
  if (name == "index0") return count(loop.index);
  if (name == "revindex") return count(size - loop.index);
  if (name == "revindex0") return count(size - loop.index - 1);
  if (name == "first") return Value::boolean(loop.index == 0);
  if (name == "last") return Value::boolean(loop.index + 1 == size);
  if (name == "length") return count(size);
  if (name == "depth") return count(loop.depth + 1);
  if (name == "depth0") return count(loop.depth);
  if (name == "previtem" && loop.index > 0) return items[loop.index - 1];
  if (name == "nextitem" && loop.index + 1 < size) return items[loop.index + 1];
  return Value::undefined("loop." + name);
}

}  // namespace

Value Interpreter::evaluate(const Expression& expression) {
  const DepthGuard guard(*this);
  try {
    charge(1);
    return std::visit([&](const auto& node) { return eval(node); }, expression.node);
  } catch (TemplateError& fault) {
    fault.locate(expression.at);
    throw;
  }
}

Value Interpreter::evaluate_optional(const ExpressionPtr& expression) {
  return expression ? evaluate(*expression) : Value();
}

Value Interpreter::eval(const Name& name) {
  if (const Value* found = lookup(name.name)) return *found;
  Value global = find_global(name.name);
  return global.is_undefined() ? Value::undefined(name.name) : std::move(global);
}

Value Interpreter::eval(const ListDisplay& list) {
  List items;
  for (const ExpressionPtr& item : list.items) items.push_back(evaluate(*item));
  return Value::list(std::move(items), list.tuple);
}

Value Interpreter::eval(const DictDisplay& dict) {
  Dict out;
  for (const auto& [key, value] : dict.entries) {
    const MarkedText name = to_text(evaluate(*key));
    out.set(name, evaluate(*value));
  }
  return Value::dict(std::move(out));
}

Value Interpreter::eval(const Member& member) {
  const Value object = evaluate(*member.object);
  if (const auto* missing = object.get<Undefined>()) fail("{} is undefined", missing->name);
  if (const Loop* loop = object.as_loop()) return loop_member(*loop, member.name);
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(member.name)) return *found;
  }
  return Value::undefined(member.name);
}

Value Interpreter::eval(const Subscript& node) {
  const Value object = evaluate(*node.object);
  const Value index = evaluate(*node.index);
  if (object.as_string()) charge(object.as_string()->size() / 64);
  if (const Loop* loop = object.as_loop()) return loop_member(*loop, to_text(index).text());
  return subscript(object, index);
}

Value Interpreter::eval(const SliceOf& node) {
  const Value object = evaluate(*node.object);
  const Value start = evaluate_optional(node.start);
  const Value stop = evaluate_optional(node.stop);
  Value result = slice(object, start, stop, evaluate_optional(node.step));
  charge_value(object);
  return result;
}

Value Interpreter::eval(const Test& test) {
  const Value input = evaluate(*test.input);
  Arguments arguments = evaluate_arguments(test.arguments);
  charge_value(input);
  return Value::boolean(is_true(test.operation(*this, input, arguments)) != test.negated);
}

Value Interpreter::eval(const Unary& unary) {
  const Value operand = evaluate(*unary.operand);
  if (unary.op == UnaryOp::logical_not) return Value::boolean(!is_true(operand));
  if (unary.op == UnaryOp::negate) return negate(operand);
  if (!operand.is_number()) fail("cannot use + on {}", type_name(operand));
  return operand;
}

Value Interpreter::eval(const Binary& binary) {
  Value left = evaluate(*binary.left);
  if (binary.op == BinaryOp::logical_and) {
    return is_true(left) ? evaluate(*binary.right) : std::move(left);
  }
  if (binary.op == BinaryOp::logical_or) {
    return is_true(left) ? std::move(left) : evaluate(*binary.right);
  }
  Value result = arithmetic(binary.op, left, evaluate(*binary.right));
  charge_value(result);
  return result;
}

Value Interpreter::eval(const Comparison& comparison) {
  Value left = evaluate(*comparison.first);
  for (const auto& [op, operand] : comparison.rest) {
    Value right = evaluate(*operand);
    charge_value(left);
    charge_value(right);
    if (!compare(op, left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::eval(const Conditional& conditional) {
  if (is_true(evaluate(*conditional.condition))) return evaluate(*conditional.value);
  return evaluate_optional(conditional.otherwise);
}

// --- calls
// ----------------------------------------------------------------------------------------

Arguments Interpreter::evaluate_arguments(const std::vector<Argument>& arguments) {
  Arguments out;
  for (const Argument& argument : arguments) {
    Value value = evaluate(*argument.value);
    if (argument.name.empty()) {
      out.positional.push_back(std::move(value));
    } else {
      out.named.emplace_back(argument.name, std::move(value));
    }
  }
  return out;
}

Value Interpreter::eval(const Call& call) { return eval_call(call, nullptr); }

Value Interpreter::eval_call(const Call& node, const Value* caller) {
  Arguments arguments = evaluate_arguments(node.arguments);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  if (const auto* member = std::get_if<Member>(&node.callee->node)) {
    return eval_method(*member, arguments);
  }
  const Value function = evaluate(*node.callee);
  return call(function, arguments);
}

Value Interpreter::eval_method(const Member& member, Arguments& arguments) {
  const Value object = evaluate(*member.object);
  if (const auto* missing = object.get<Undefined>()) fail("{} is undefined", missing->name);
  charge_value(object);
  Value result;
  if (call_method(*this, object, member.name, arguments, result)) {
    charge_value(result);
    return result;
  }
  const Dict* dict = object.as_dict();
  const Value* held = dict != nullptr ? dict->find(member.name) : nullptr;
  if (held == nullptr) fail("{} has no method {}", type_name(object), member.name);
  return call(*held, arguments);
}

Value Interpreter::call(const Value& function, Arguments& arguments) {
  if (const Loop* loop = function.as_loop()) {
    if (!loop->recurse) fail("the loop is not recursive");
    return loop->recurse(*this, arguments);
  }
  if (const auto* missing = function.get<Undefined>()) fail("{} is undefined", missing->name);
  const Function* body = function.as_function();
  if (body == nullptr) fail("{} is not callable", type_name(function));
  Value result = body->body(*this, arguments);
  charge_value(result);
  return result;
}

Value Interpreter::apply(const Filter& filter, const Value& input) {
  Arguments arguments = evaluate_arguments(filter.arguments);
  charge_value(input);
  Value result = filter.operation(*this, input, arguments);
  charge_value(result);
  return result;
}

Value Interpreter::apply(const std::vector<Filter>& filters, Value input) {
  for (const Filter& filter : filters) input = apply(filter, input);
  return input;
}

}  // namespace fulgur::text::jinja
