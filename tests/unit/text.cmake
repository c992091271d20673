# The M1 tokenizer is 15 MB of JSON: checked in compressed, unpacked into the build tree.
set(m1_tokenizer_dir ${CMAKE_BINARY_DIR}/golden/minimax-m1)
set(m1_tokenizer_source ${PROJECT_SOURCE_DIR}/tests/golden/tokenizers/minimax-m1)
add_custom_command(
  OUTPUT ${m1_tokenizer_dir}/tokenizer.json
  COMMAND ${CMAKE_COMMAND} -E make_directory ${m1_tokenizer_dir}
  COMMAND xz -dc ${m1_tokenizer_source}/tokenizer.json.xz > ${m1_tokenizer_dir}/tokenizer.json
  COMMAND ${CMAKE_COMMAND} -E copy ${m1_tokenizer_source}/tokenizer_config.json ${m1_tokenizer_dir}
  DEPENDS ${m1_tokenizer_source}/tokenizer.json.xz ${m1_tokenizer_source}/tokenizer_config.json
  VERBATIM)
add_custom_target(fulgur_m1_tokenizer DEPENDS ${m1_tokenizer_dir}/tokenizer.json)

fulgur_test(tokenizer_test
  SOURCES text/tokenizer_test.cpp text/tokenizer_golden_test.cpp text/detokenizer_test.cpp
          text/utf8_test.cpp
  DEPENDS fulgur::text)
add_dependencies(tokenizer_test fulgur_m1_tokenizer)
target_compile_definitions(tokenizer_test PRIVATE FULGUR_M1_TOKENIZER_DIR="${m1_tokenizer_dir}")

fulgur_test(chat_template_test
  SOURCES text/chat_template_test.cpp text/chat_template_golden_test.cpp
          text/jinja/language_test.cpp text/jinja/limits_test.cpp
  DEPENDS fulgur::text)
add_dependencies(chat_template_test fulgur_m1_tokenizer)
target_compile_definitions(chat_template_test PRIVATE FULGUR_M1_TOKENIZER_DIR="${m1_tokenizer_dir}")
