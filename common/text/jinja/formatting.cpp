// Values as text: Python's str, repr and json.dumps. Punctuation and numbers count as trusted; the
// characters of strings and keys keep their marks.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "common/text/jinja/operations.hpp"

namespace fulgur::text::jinja {
namespace {

constexpr std::size_t kMaxTextBytes = 32U << 20U;

/// Every container passes here, so text that shared parts blow up is stopped in time.
void append_trusted(MarkedText& out, std::string_view text) {
  if (out.size() > kMaxTextBytes) fail("text is too long");
  out.append(text, true);
}

/// One piece of text with quotes, backslashes and control characters escaped.
template <class EscapeControl>
void append_escaped(MarkedText& out, const MarkedText& text, char quote, EscapeControl control) {
  std::size_t begin = 0;
  const std::string_view bytes = text.text();
  for (const MarkedText::Run& run : text.runs()) {
    std::size_t plain = begin;
    for (std::size_t i = begin; i < run.end; ++i) {
      const char c = bytes[i];
      const bool is_control = static_cast<unsigned char>(c) < 0x20;
      if (c != quote && c != '\\' && !is_control) continue;
      out.append(bytes.substr(plain, i - plain), run.trusted);
      out.append(is_control ? control(c) : std::string{'\\', c}, run.trusted);
      plain = i + 1;
    }
    out.append(bytes.substr(plain, run.end - plain), run.trusted);
    begin = run.end;
  }
}

std::string python_control(char c) {
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  if (c == '\t') return "\\t";
  return fmt::format("\\x{:02x}", static_cast<unsigned>(c));
}

std::string json_control(char c) {
  if (c == '\b') return "\\b";
  if (c == '\f') return "\\f";
  if (c == '\n' || c == '\r' || c == '\t') return python_control(c);
  return fmt::format("\\u{:04x}", static_cast<unsigned>(c));
}

void append_repr(MarkedText& out, const MarkedText& text) {
  const bool has_single = text.text().find('\'') != std::string::npos;
  const bool has_double = text.text().find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  append_trusted(out, {&quote, 1});
  append_escaped(out, text, quote, python_control);
  append_trusted(out, {&quote, 1});
}

void append_repr(MarkedText& out, const Value& value);

void append_items(MarkedText& out, const List& items, bool tuple) {
  append_trusted(out, tuple ? "(" : "[");
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) append_trusted(out, ", ");
    append_repr(out, items[i]);
  }
  if (tuple && items.size() == 1) append_trusted(out, ",");
  append_trusted(out, tuple ? ")" : "]");
}

void append_repr(MarkedText& out, const Value& value) {
  if (const MarkedText* text = value.as_string()) return append_repr(out, *text);
  if (const auto* list = value.get<std::shared_ptr<const Sequence>>()) {
    return append_items(out, (*list)->items, (*list)->tuple);
  }
  const Dict* dict = value.as_dict();
  if (dict == nullptr) {
    return append_trusted(out, value.is_undefined() ? "Undefined" : to_text(value).text());
  }
  if (dict->is_namespace) append_trusted(out, "<Namespace ");
  append_trusted(out, "{");
  for (std::size_t i = 0; i < dict->entries.size(); ++i) {
    if (i > 0) append_trusted(out, ", ");
    append_repr(out, dict->entries[i].first);
    append_trusted(out, ": ");
    append_repr(out, dict->entries[i].second);
  }
  append_trusted(out, dict->is_namespace ? "}>" : "}");
}

class JsonWriter {
 public:
  JsonWriter(MarkedText& out, int indent, bool sort_keys, std::string_view item_separator,
             std::string_view key_separator)
      : out_(out),
        indent_(indent),
        sort_keys_(sort_keys),
        comma_(item_separator),
        colon_(key_separator) {}

  void write(const Value& value, int level = 0) {
    if (const MarkedText* text = value.as_string()) {
      write_string(*text);
    } else if (const List* list = value.as_list()) {
      write_all('[', list->size(), ']', level,
                [&](std::size_t i) { write((*list)[i], level + 1); });
    } else if (value.as_dict() && !value.as_dict()->is_namespace) {
      write_dict(*value.as_dict(), level);
    } else {
      write_scalar(value);
    }
  }

 private:
  void write_string(const MarkedText& text) {
    append_trusted(out_, "\"");
    append_escaped(out_, text, '"', json_control);
    append_trusted(out_, "\"");
  }

  void write_dict(const Dict& dict, int level) {
    auto entries = dict.entries;
    if (sort_keys_) {
      std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
        return a.first.text() < b.first.text();
      });
    }
    write_all('{', entries.size(), '}', level, [&](std::size_t i) {
      write_string(entries[i].first);
      append_trusted(out_, colon_);
      write(entries[i].second, level + 1);
    });
  }

  template <class WriteItem>
  void write_all(char open, std::size_t count, char close, int level, WriteItem write_item) {
    append_trusted(out_, {&open, 1});
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) append_trusted(out_, comma_);
      new_line(level + 1);
      write_item(i);
    }
    if (count > 0) new_line(level);
    append_trusted(out_, {&close, 1});
  }

  void new_line(int level) {
    if (indent_ < 0) return;
    append_trusted(out_, "\n");
    append_trusted(out_, std::string(static_cast<std::size_t>(indent_ * level), ' '));
  }

  void write_scalar(const Value& value) {
    if (value.is_none()) return append_trusted(out_, "null");
    if (const auto* boolean = value.get<bool>()) {
      return append_trusted(out_, *boolean ? "true" : "false");
    }
    if (const auto* number = value.get<double>(); number != nullptr && !std::isfinite(*number)) {
      const std::string_view infinity = *number > 0 ? "Infinity" : "-Infinity";
      return append_trusted(out_, std::isnan(*number) ? "NaN" : infinity);
    }
    if (const auto* missing = value.get<Undefined>()) {
      fail("tojson: {} is undefined", missing->name);
    }
    if (!value.is_number()) fail("tojson cannot write a {}", type_name(value));
    append_trusted(out_, to_text(value).text());
  }

  MarkedText& out_;
  int indent_;
  bool sort_keys_;
  std::string_view comma_, colon_;
};

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // The shortest digits that read back as the same double, d.ddde±xx, laid out as Python does.
  std::array<char, 32> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  const std::string_view shortest(buffer.data(), static_cast<std::size_t>(end.ptr - buffer.data()));
  const std::size_t e = shortest.find('e');
  int exponent = 0;
  const bool plus = shortest[e + 1] == '+';
  std::from_chars(shortest.data() + e + (plus ? 2 : 1), end.ptr, exponent);
  std::string digits;
  for (const char c : shortest.substr(0, e)) {
    if (c != '.' && c != '-') digits += c;
  }
  const std::string sign = std::signbit(value) ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
    return fmt::format("{}{}{}e{}{:02d}", sign, digits[0], fraction, exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

MarkedText to_text(const Value& value) {
  if (const MarkedText* text = value.as_string()) return *text;
  if (value.as_list() || value.as_dict()) return to_repr(value);
  if (const auto* integer = value.get<std::int64_t>()) {
    return MarkedText(std::to_string(*integer), true);
  }
  if (const auto* number = value.get<double>()) return MarkedText(real_text(*number), true);
  if (const auto* boolean = value.get<bool>()) return MarkedText(*boolean ? "True" : "False", true);
  if (value.is_undefined()) return {};
  if (value.is_none()) return MarkedText("None", true);
  return MarkedText(fmt::format("<{}>", type_name(value)), true);
}

MarkedText to_repr(const Value& value) {
  MarkedText out;
  append_repr(out, value);
  return out;
}

MarkedText to_json(const Value& value, int indent, bool sort_keys, std::string_view item_separator,
                   std::string_view key_separator) {
  MarkedText out;
  if (item_separator.empty()) item_separator = indent < 0 ? ", " : ",";
  if (key_separator.empty()) key_separator = ": ";
  JsonWriter(out, indent, sort_keys, item_separator, key_separator).write(value);
  return out;
}

}  // namespace fulgur::text::jinja
