// Expressions of the template language, by precedence climbing in Jinja2's order; the statement
// parser derives from this class to share the token cursor.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/jinja/ast.hpp"
#include "common/text/jinja/lexer.hpp"

namespace fulgur::text::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  /// One expression; without `conditional` an `if` after it is left unread.
  ExpressionPtr parse_expression(bool conditional = true);
  /// One expression, or several separated by commas as a tuple.
  ExpressionPtr parse_tuple(bool conditional = true);
  /// Name and arguments of a filter, after its "|".
  Filter parse_filter(ExpressionPtr input);

  const Token& current() const { return tokens_[position_]; }
  const Token& peek(std::size_t ahead) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  void advance() {
    if (position_ + 1 < tokens_.size()) ++position_;
  }
  bool is_op(std::string_view op) const;
  bool is_name(std::string_view name) const;
  bool accept_op(std::string_view op);
  bool accept_name(std::string_view name);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  void expect(Token::Type type, std::string_view what);
  std::string take_name();

  /// Bounds the recursion of the parser; the depth of trees is bounded where they are made.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.depth_ > kMaxDepth) fail("template nests deeper than {}", kMaxDepth);
    }
    ~Nesting() { --parser_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    static constexpr std::size_t kMaxDepth = 100;
    ExpressionParser& parser_;
  };

 private:
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name_or_constant();
  ExpressionPtr parse_number();
  ExpressionPtr parse_string();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr object);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr input);
  ExpressionPtr parse_test(ExpressionPtr input);
  std::vector<Argument> parse_arguments();

  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  std::size_t depth_ = 0;
};

}  // namespace fulgur::text::jinja
