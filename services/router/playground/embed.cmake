# cmake -DPAGE=index.html -DOUTPUT=page.cpp -P embed.cmake: a C++ file that holds the page's bytes.
# String literals have a length limit, so the page is written as an array of numbers.
file(READ ${PAGE} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(....................................................................................................)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUTPUT} "#include \"services/router/playground_page.hpp\"

namespace fulgur::router {
namespace {
constexpr unsigned char kBytes[] = {
${bytes}};
}  // namespace

const std::string_view kPlaygroundPage(reinterpret_cast<const char*>(kBytes), sizeof kBytes);

}  // namespace fulgur::router
")
