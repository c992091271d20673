// JSON from requests as values of the template language, and messages in the shape a template
// wants them.
#pragma once

#include "common/text/chat_template.hpp"
#include "common/text/jinja/value.hpp"

namespace fulgur::text {

/// Strings and keys become untrusted text. Throws TemplateError for text that is not UTF-8 and for
/// nesting beyond Value::kMaxDepth; `what` names the JSON in messages.
jinja::Value to_value(const Json& json, const std::string& what);

/// Messages as values; the known role names are trusted, because templates build control tokens
/// from them. Throws as to_value does.
jinja::Value messages_to_value(const Json& messages);

/// Checks that messages are objects and rewrites their content to `format`; arguments of tool calls
/// that are JSON text become JSON.
Result<Json> adapt_messages(const Json& messages, ContentFormat format);

}  // namespace fulgur::text
