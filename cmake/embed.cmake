# cmake -DHEADER=… -DNAMESPACE=… -DTABLE=kFiles -DOUTPUT=files.cpp "-DFILES=a;b" -P embed.cmake: a C++ file
# that holds the files' bytes as a table of http::EmbeddedFile. String literals have a length limit,
# so the bytes are written as arrays of characters.
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS FILES)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${hex}")
  string(REGEX REPLACE "(('....',){16})" "\\1\n" bytes "${bytes}")
  get_filename_component(name ${file} NAME)
  string(APPEND arrays "constexpr char kBytes${number}[] = {\n${bytes}};\n")
  string(APPEND rows "    {\"${name}\", {kBytes${number}, sizeof kBytes${number}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"${HEADER}\"

namespace ${NAMESPACE} {
namespace {
${arrays}
constexpr http::EmbeddedFile kTable[] = {
${rows}};
}  // namespace

const std::span<const http::EmbeddedFile> ${TABLE}(kTable);

}  // namespace ${NAMESPACE}
")
