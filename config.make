# Rules that nginx's Makefile needs besides its own: the engine's archive,
# whose freshness only its own Makefile can judge, the bundled Lua files and the
# files that the module serves.

llm_build=${LLM_BUILD:-$ngx_addon_dir/build}

cat << END                                                    >> $NGX_MAKEFILE

.PHONY: llm_engine

llm_engine:
	\$(MAKE) -C $ngx_addon_dir/engine BUILD=$llm_build CC="\$(CC)" lib

$llm_build/libllm.a: llm_engine
	@:

$llm_build/ngx_http_llm_lua_sources.h:	$ngx_addon_dir/lua/embed.sh \\
	`echo $ngx_addon_dir/lua/llm/*.lua`
	mkdir -p $llm_build
	sh $ngx_addon_dir/lua/embed.sh \$@

$llm_build/ngx_http_llm_web_files.h:	`echo $ngx_addon_dir/web/*`
	mkdir -p $llm_build
	sh $ngx_addon_dir/web/embed.sh \$@

END
