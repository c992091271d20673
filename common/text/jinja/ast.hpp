// The parsed template: plain data, immutable after parsing, safe to share between threads.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/text/jinja/value.hpp"

namespace fulgur::text::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<const Expression>;
using Block = std::vector<Statement>;
/// Implementation of a filter or a test: (interpreter, input, arguments).
using Operation = Value (*)(Interpreter&, const Value&, Arguments&);

struct Argument {
  std::string name;  ///< empty when positional
  ExpressionPtr value;
};

struct Literal {
  Value value;
};
struct Name {
  std::string name;
};
struct ListDisplay {
  std::vector<ExpressionPtr> items;
  bool tuple = false;
};
struct DictDisplay {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Member {
  ExpressionPtr object;
  std::string name;
};
struct Subscript {
  ExpressionPtr object, index;
};
/// object[start:stop:step]; absent parts are null.
struct SliceOf {
  ExpressionPtr object, start, stop, step;
};
struct Call {
  ExpressionPtr callee;
  std::vector<Argument> arguments;
};
struct Filter {
  ExpressionPtr input;  ///< null in {% filter %} and {% set | filter %}: the captured text
  Operation operation = nullptr;
  std::vector<Argument> arguments;
};
struct Test {
  ExpressionPtr input;
  Operation operation = nullptr;
  std::vector<Argument> arguments;
  bool negated = false;
};
enum class UnaryOp { negate, plus, logical_not };
struct Unary {
  UnaryOp op;
  ExpressionPtr operand;
};
enum class BinaryOp {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate,
  logical_and,
  logical_or
};
struct Binary {
  BinaryOp op;
  ExpressionPtr left, right;
};
enum class CompareOp { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };
/// first op1 a op2 b …, true when every neighbouring pair compares.
struct Comparison {
  ExpressionPtr first;
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
};
struct Conditional {
  ExpressionPtr value, condition, otherwise;  ///< otherwise may be null: undefined
};

struct Expression {
  Location at;
  std::size_t depth;  ///< levels of the tree below and with this node
  std::variant<Literal, Name, ListDisplay, DictDisplay, Member, Subscript, SliceOf, Call, Filter,
               Test, Unary, Binary, Comparison, Conditional>
      node;
};

/// What an assignment or a loop binds: a name, several names, or an attribute of a namespace.
struct Target {
  std::vector<std::string> names;
  bool unpack = false;    ///< the value is a sequence of names.size() values
  std::string attribute;  ///< of the namespace names[0]; empty otherwise
};

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  ///< null when required
};

struct Data {
  std::string text;
};
struct Print {
  ExpressionPtr value;
};
struct Set {
  Target target;
  ExpressionPtr value;  ///< null: the body's text
  Block body;
  std::vector<Filter> filters;  ///< applied to the body's text
};
struct For {
  Target target;
  ExpressionPtr iterable, condition;  ///< condition may be null
  Block body, otherwise;
  bool recursive = false;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Block>> branches;  ///< a null condition is else
};
struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
};
/// {% call(parameters) call %}body{% endcall %}
struct CallBlock {
  Macro caller;
  ExpressionPtr call;
};
struct FilterBlock {
  std::vector<Filter> filters;
  Block body;
};
struct With {
  std::vector<std::pair<Target, ExpressionPtr>> bindings;
  Block body;
};
/// {% generation %}: marks what the model wrote; rendering is the body.
struct Generation {
  Block body;
};
struct Break {};
struct Continue {};

struct Statement {
  Location at;
  std::variant<Data, Print, Set, For, If, Macro, CallBlock, FilterBlock, With, Generation, Break,
               Continue>
      node;
};

}  // namespace fulgur::text::jinja
