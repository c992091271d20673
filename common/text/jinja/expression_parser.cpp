// Each parse_x reads one level of precedence, loosest first, as Jinja2's parser.py does.
#include "common/text/jinja/expression_parser.hpp"

#include <charconv>

#include "common/text/jinja/library.hpp"

namespace fulgur::text::jinja {
namespace {

using Type = Token::Type;
// Chains such as a + b + … lean left without recursion in the parser, so depth is counted here.
constexpr std::size_t kMaxTreeDepth = 400;

std::size_t depth(const ExpressionPtr& child) { return child ? child->depth : 0; }
std::size_t depth(const std::vector<Argument>& arguments) {
  std::size_t deepest = 0;
  for (const Argument& argument : arguments) deepest = std::max(deepest, depth(argument.value));
  return deepest;
}
std::size_t depth(const Literal&) { return 0; }
std::size_t depth(const Name&) { return 0; }
std::size_t depth(const ListDisplay& list) {
  std::size_t deepest = 0;
  for (const ExpressionPtr& item : list.items) deepest = std::max(deepest, depth(item));
  return deepest;
}
std::size_t depth(const DictDisplay& dict) {
  std::size_t deepest = 0;
  for (const auto& [key, value] : dict.entries) {
    deepest = std::max({deepest, depth(key), depth(value)});
  }
  return deepest;
}
std::size_t depth(const Member& node) { return depth(node.object); }
std::size_t depth(const Subscript& node) { return std::max(depth(node.object), depth(node.index)); }
std::size_t depth(const SliceOf& node) {
  return std::max({depth(node.object), depth(node.start), depth(node.stop), depth(node.step)});
}
std::size_t depth(const Call& node) { return std::max(depth(node.callee), depth(node.arguments)); }
std::size_t depth(const Filter& node) { return std::max(depth(node.input), depth(node.arguments)); }
std::size_t depth(const Test& node) { return std::max(depth(node.input), depth(node.arguments)); }
std::size_t depth(const Unary& node) { return depth(node.operand); }
std::size_t depth(const Binary& node) { return std::max(depth(node.left), depth(node.right)); }
std::size_t depth(const Comparison& node) {
  std::size_t deepest = depth(node.first);
  for (const auto& [op, operand] : node.rest) deepest = std::max(deepest, depth(operand));
  return deepest;
}
std::size_t depth(const Conditional& node) {
  return std::max({depth(node.value), depth(node.condition), depth(node.otherwise)});
}

template <class Node>
ExpressionPtr make(Location at, Node node) {
  const std::size_t levels = depth(node) + 1;
  if (levels > kMaxTreeDepth) fail("expression nests deeper than {}", kMaxTreeDepth);
  return std::make_unique<const Expression>(Expression{at, levels, std::move(node)});
}

}  // namespace

// --- cursor -------------------------------------------------------------------------------------

bool ExpressionParser::is_op(std::string_view op) const {
  return current().type == Type::op && current().text == op;
}

bool ExpressionParser::is_name(std::string_view name) const {
  return current().type == Type::name && current().text == name;
}

bool ExpressionParser::accept_op(std::string_view op) {
  const bool found = is_op(op);
  if (found) advance();
  return found;
}

bool ExpressionParser::accept_name(std::string_view name) {
  const bool found = is_name(name);
  if (found) advance();
  return found;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!accept_op(op)) fail("expected {}, found {}", op, current().text);
}

void ExpressionParser::expect_name(std::string_view name) {
  if (!accept_name(name)) fail("expected {}, found {}", name, current().text);
}

void ExpressionParser::expect(Type type, std::string_view what) {
  if (current().type != type) {
    const bool at_end = current().type == Type::end;
    fail("expected {}, found {}", what, at_end ? "the end of the template" : current().text);
  }
  advance();
}

std::string ExpressionParser::take_name() {
  std::string name = current().text;
  if (current().type != Type::name) fail("expected a name, found {}", name);
  advance();
  return name;
}

// --- operators ----------------------------------------------------------------------------------

ExpressionPtr ExpressionParser::parse_tuple(bool conditional) {
  const Location at = current().at;
  ExpressionPtr first = parse_expression(conditional);
  if (!is_op(",")) return first;
  ListDisplay tuple{{}, true};
  tuple.items.push_back(std::move(first));
  while (accept_op(",")) {
    const bool ends =
        current().type == Type::block_end || current().type == Type::print_end || is_op(")");
    if (ends) break;
    tuple.items.push_back(parse_expression(conditional));
  }
  return make(at, std::move(tuple));
}

ExpressionPtr ExpressionParser::parse_expression(bool conditional) {
  const Nesting nesting(*this);
  ExpressionPtr value = parse_or();
  while (conditional && is_name("if")) {
    const Location at = current().at;
    advance();
    ExpressionPtr condition = parse_or();
    ExpressionPtr otherwise = accept_name("else") ? parse_expression() : nullptr;
    value = make(at, Conditional{std::move(value), std::move(condition), std::move(otherwise)});
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr left = parse_and();
  while (is_name("or")) {
    const Location at = current().at;
    advance();
    left = make(at, Binary{BinaryOp::logical_or, std::move(left), parse_and()});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr left = parse_not();
  while (is_name("and")) {
    const Location at = current().at;
    advance();
    left = make(at, Binary{BinaryOp::logical_and, std::move(left), parse_not()});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Nesting nesting(*this);
  const Location at = current().at;
  advance();
  return make(at, Unary{UnaryOp::logical_not, parse_not()});
}

ExpressionPtr ExpressionParser::parse_compare() {
  static constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::equal},  {"!=", CompareOp::not_equal},
      {"<", CompareOp::less},    {"<=", CompareOp::less_equal},
      {">", CompareOp::greater}, {">=", CompareOp::greater_equal}};
  const Location at = current().at;
  Comparison comparison{parse_sum(), {}};
  while (true) {
    bool found = false;
    for (const auto& [text, op] : kOps) {
      if (!accept_op(text)) continue;
      comparison.rest.emplace_back(op, parse_sum());
      found = true;
      break;
    }
    if (found) continue;
    if (accept_name("in")) {
      comparison.rest.emplace_back(CompareOp::in, parse_sum());
    } else if (is_name("not") && peek(1).type == Type::name && peek(1).text == "in") {
      advance();
      advance();
      comparison.rest.emplace_back(CompareOp::not_in, parse_sum());
    } else {
      break;
    }
  }
  if (comparison.rest.empty()) return std::move(comparison.first);
  return make(at, std::move(comparison));
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (is_op("+") || is_op("-")) {
    const Location at = current().at;
    const BinaryOp op = is_op("+") ? BinaryOp::add : BinaryOp::subtract;
    advance();
    left = make(at, Binary{op, std::move(left), parse_concat()});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  ExpressionPtr left = parse_product();
  while (is_op("~")) {
    const Location at = current().at;
    advance();
    left = make(at, Binary{BinaryOp::concatenate, std::move(left), parse_product()});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_product() {
  static constexpr std::pair<std::string_view, BinaryOp> kOps[] = {{"*", BinaryOp::multiply},
                                                                   {"/", BinaryOp::divide},
                                                                   {"//", BinaryOp::floor_divide},
                                                                   {"%", BinaryOp::modulo}};
  ExpressionPtr left = parse_power();
  while (current().type == Type::op) {
    const auto* found = std::find_if(std::begin(kOps), std::end(kOps),
                                     [&](const auto& op) { return op.first == current().text; });
    if (found == std::end(kOps)) break;
    const Location at = current().at;
    advance();
    left = make(at, Binary{found->second, std::move(left), parse_power()});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  while (is_op("**")) {
    const Location at = current().at;
    advance();
    left = make(at, Binary{BinaryOp::power, std::move(left), parse_unary(true)});
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filter) {
  const Nesting nesting(*this);
  const Location at = current().at;
  ExpressionPtr value;
  if (is_op("-") || is_op("+")) {
    const UnaryOp op = is_op("-") ? UnaryOp::negate : UnaryOp::plus;
    advance();
    value = make(at, Unary{op, parse_unary(false)});
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

// --- primaries ----------------------------------------------------------------------------------

ExpressionPtr ExpressionParser::parse_primary() {
  const Token& token = current();
  switch (token.type) {
    case Type::name:
      return parse_name_or_constant();
    case Type::string:
      return parse_string();
    case Type::integer:
    case Type::real:
      return parse_number();
    default:
      break;
  }
  if (is_op("[")) return parse_list();
  if (is_op("{")) return parse_dict();
  if (!is_op("(")) {
    fail("expected an expression, found {}",
         token.type == Type::end ? "the end of the template" : token.text);
  }
  const Location at = token.at;
  advance();
  if (accept_op(")")) return make(at, ListDisplay{{}, true});
  ExpressionPtr inner = parse_tuple();
  expect_op(")");
  return inner;
}

ExpressionPtr ExpressionParser::parse_name_or_constant() {
  const Location at = current().at;
  std::string name = take_name();
  if (name == "true" || name == "True") return make(at, Literal{Value::boolean(true)});
  if (name == "false" || name == "False") return make(at, Literal{Value::boolean(false)});
  if (name == "none" || name == "None") return make(at, Literal{Value::none()});
  return make(at, Name{std::move(name)});
}

ExpressionPtr ExpressionParser::parse_number() {
  const Token token = current();
  advance();
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  std::int64_t integer = 0;
  double real = 0;
  if (token.type == Type::integer) {
    if (std::from_chars(begin, end, integer).ec != std::errc()) fail("number is out of range");
    return make(token.at, Literal{Value::integer(integer)});
  }
  if (std::from_chars(begin, end, real).ec != std::errc()) fail("number is out of range");
  return make(token.at, Literal{Value::real(real)});
}

ExpressionPtr ExpressionParser::parse_string() {
  const Location at = current().at;
  std::string text;  // neighbouring literals are one string
  for (; current().type == Type::string; advance()) text += current().text;
  return make(at, Literal{Value::trusted(text)});
}

ExpressionPtr ExpressionParser::parse_list() {
  const Location at = current().at;
  ListDisplay list;
  expect_op("[");
  while (!accept_op("]")) {
    if (!list.items.empty()) {
      expect_op(",");
      if (accept_op("]")) break;
    }
    list.items.push_back(parse_expression());
  }
  return make(at, std::move(list));
}

ExpressionPtr ExpressionParser::parse_dict() {
  const Location at = current().at;
  DictDisplay dict;
  expect_op("{");
  while (!accept_op("}")) {
    if (!dict.entries.empty()) {
      expect_op(",");
      if (accept_op("}")) break;
    }
    ExpressionPtr key = parse_expression();
    expect_op(":");
    dict.entries.emplace_back(std::move(key), parse_expression());
  }
  return make(at, std::move(dict));
}

// --- postfixes ----------------------------------------------------------------------------------

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr object) {
  while (true) {
    const Location at = current().at;
    if (accept_op(".")) {
      if (current().type == Type::integer) {  // jinja2 allows list.0
        object = make(at, Subscript{std::move(object), parse_number()});
      } else {
        object = make(at, Member{std::move(object), take_name()});
      }
    } else if (is_op("[")) {
      object = parse_subscript(std::move(object));
    } else if (is_op("(")) {
      object = make(at, Call{std::move(object), parse_arguments()});
    } else {
      return object;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object) {
  const Location at = current().at;
  expect_op("[");
  ExpressionPtr parts[3];
  std::size_t part = 0;
  bool is_slice = false;
  while (!is_op("]")) {
    if (accept_op(":")) {
      is_slice = true;
      if (++part > 2) fail("a slice has at most three parts");
    } else if (parts[part] != nullptr) {
      fail("expected ], found {}", current().text);
    } else {
      parts[part] = parse_expression();
    }
  }
  expect_op("]");
  if (is_slice) {
    return make(at, SliceOf{std::move(object), std::move(parts[0]), std::move(parts[1]),
                            std::move(parts[2])});
  }
  if (parts[0] == nullptr) fail("subscript is empty");
  return make(at, Subscript{std::move(object), std::move(parts[0])});
}

std::vector<Argument> ExpressionParser::parse_arguments() {
  std::vector<Argument> arguments;
  expect_op("(");
  while (!accept_op(")")) {
    if (!arguments.empty()) {
      expect_op(",");
      if (accept_op(")")) break;
    }
    Argument argument;
    if (current().type == Type::name && peek(1).type == Type::op && peek(1).text == "=") {
      argument.name = take_name();
      advance();
    } else if (!arguments.empty() && !arguments.back().name.empty()) {
      fail("positional argument after a named one");
    }
    argument.value = parse_expression();
    arguments.push_back(std::move(argument));
  }
  return arguments;
}

ExpressionPtr ExpressionParser::parse_filters_and_tests(ExpressionPtr input) {
  while (true) {
    const Location at = current().at;
    if (accept_op("|")) {
      input = make(at, parse_filter(std::move(input)));
    } else if (accept_name("is")) {
      input = parse_test(std::move(input));
    } else if (is_op("(")) {
      input = make(at, Call{std::move(input), parse_arguments()});
    } else {
      return input;
    }
  }
}

Filter ExpressionParser::parse_filter(ExpressionPtr input) {
  const Token token = current();
  const std::string name = take_name();
  Filter filter{std::move(input), find_filter(name), {}};
  if (filter.operation == nullptr) {
    TemplateError fault(fmt::format("no filter named {}", name));
    fault.locate(token.at);
    throw fault;
  }
  if (is_op("(")) filter.arguments = parse_arguments();
  return filter;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr input) {
  Test test;
  test.input = std::move(input);
  test.negated = accept_name("not");
  const Token token = current();
  const std::string name = take_name();
  test.operation = find_test(name);
  if (test.operation == nullptr) {
    TemplateError fault(fmt::format("no test named {}", name));
    fault.locate(token.at);
    throw fault;
  }
  if (is_op("(")) {
    test.arguments = parse_arguments();
    return make(token.at, std::move(test));
  }
  // One bare argument, as in "x is divisibleby 3".
  static constexpr std::string_view kKeywords[] = {"else", "or", "and", "if",
                                                   "in",   "is", "not", "recursive"};
  const Token& next = current();
  const bool keyword =
      next.type == Type::name &&
      std::find(std::begin(kKeywords), std::end(kKeywords), next.text) != std::end(kKeywords);
  const bool starts = (next.type == Type::name && !keyword) || next.type == Type::string ||
                      next.type == Type::integer || next.type == Type::real || is_op("[") ||
                      is_op("{");
  if (starts) {
    ExpressionPtr argument = parse_postfix(parse_primary());
    test.arguments.push_back({"", std::move(argument)});
  }
  return make(token.at, std::move(test));
}

}  // namespace fulgur::text::jinja
